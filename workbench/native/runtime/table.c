/* The helpers by number. A program is loaded only if all it calls are here (workbench/runtime/helpers/model.py). */
#include "helpers.h"

#define ENTRY(number, name) [number] = wb_helper_##name,
WB_EXPORT const wb_helper wb_helpers[WB_HELPERS] = {WB_EACH_HELPER(ENTRY)};
