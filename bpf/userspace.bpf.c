/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* No program: the types that programs are linked against when they run in user space (docs/runtime.md, "Platform").
 * The structures are the native core's own; this file turns them into BTF.
 */
#include "../workbench/native/runtime/platform.h"

#define PLATFORM(name_) struct name_ *platform_##name_ __attribute__((used))
PLATFORM(mm_struct);
PLATFORM(return_instance);
PLATFORM(uprobe_task);
PLATFORM(signal_struct);
PLATFORM(task_struct);
PLATFORM(pt_regs);
#if !defined(__TARGET_ARCH_x86)
PLATFORM(user_pt_regs);
#endif

char LICENSE[] __attribute__((section("license"), used)) = "Dual MIT/GPL";
