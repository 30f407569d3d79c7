/* What every file of the native core shares. */
#ifndef WORKBENCH_CORE_H
#define WORKBENCH_CORE_H

#include <stddef.h>
#include <stdint.h>

#define WB_EXPORT __attribute__((visibility("default")))

#endif
