/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* One window for all collectors of a recording: each attaches while its programs are paused, then all are let go
 * together, and all are paused together before the first of them is detached. Programs look at `paused` first.
 */
#ifndef WINDOW_H
#define WINDOW_H

#include <stdbool.h>

/* Set and cleared by user space. What was not begun inside the window (a call, a wait) is not recorded. */
bool paused;

#endif
