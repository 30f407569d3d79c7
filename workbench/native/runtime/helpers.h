/* For the files that implement helpers: wb_helper_NAME(run, r1..r5), with the kernel's semantics. */
#ifndef WB_HELPERS_H
#define WB_HELPERS_H

#include "types.h"

/* Every helper with its number: enum bpf_func_id of include/uapi/linux/bpf.h. */
#define WB_EACH_HELPER(ROW)                                                                                            \
    ROW(1, map_lookup_elem)                                                                                            \
    ROW(2, map_update_elem)                                                                                            \
    ROW(3, map_delete_elem)                                                                                            \
    ROW(4, probe_read)                                                                                                 \
    ROW(5, ktime_get_ns)                                                                                               \
    ROW(6, trace_printk)                                                                                               \
    ROW(7, get_prandom_u32)                                                                                            \
    ROW(8, get_smp_processor_id)                                                                                       \
    ROW(12, tail_call)                                                                                                 \
    ROW(14, get_current_pid_tgid)                                                                                      \
    ROW(15, get_current_uid_gid)                                                                                       \
    ROW(16, get_current_comm)                                                                                          \
    ROW(25, perf_event_output)                                                                                         \
    ROW(27, get_stackid)                                                                                               \
    ROW(28, csum_diff)                                                                                                 \
    ROW(35, get_current_task)                                                                                          \
    ROW(36, probe_write_user)                                                                                          \
    ROW(42, get_numa_node_id)                                                                                          \
    ROW(45, probe_read_str)                                                                                            \
    ROW(58, override_return)                                                                                           \
    ROW(67, get_stack)                                                                                                 \
    ROW(87, map_push_elem)                                                                                             \
    ROW(88, map_pop_elem)                                                                                              \
    ROW(89, map_peek_elem)                                                                                             \
    ROW(93, spin_lock)                                                                                                 \
    ROW(94, spin_unlock)                                                                                               \
    ROW(105, strtol)                                                                                                   \
    ROW(106, strtoul)                                                                                                  \
    ROW(109, send_signal)                                                                                              \
    ROW(112, probe_read_user)                                                                                          \
    ROW(113, probe_read_kernel)                                                                                        \
    ROW(114, probe_read_user_str)                                                                                      \
    ROW(115, probe_read_kernel_str)                                                                                    \
    ROW(117, send_signal_thread)                                                                                       \
    ROW(118, jiffies64)                                                                                                \
    ROW(120, get_ns_current_pid_tgid)                                                                                  \
    ROW(125, ktime_get_boot_ns)                                                                                        \
    ROW(130, ringbuf_output)                                                                                           \
    ROW(131, ringbuf_reserve)                                                                                          \
    ROW(132, ringbuf_submit)                                                                                           \
    ROW(133, ringbuf_discard)                                                                                          \
    ROW(134, ringbuf_query)                                                                                            \
    ROW(148, copy_from_user)                                                                                           \
    ROW(156, task_storage_get)                                                                                         \
    ROW(157, task_storage_delete)                                                                                      \
    ROW(158, get_current_task_btf)                                                                                     \
    ROW(160, ktime_get_coarse_ns)                                                                                      \
    ROW(164, for_each_map_elem)                                                                                        \
    ROW(165, snprintf)                                                                                                 \
    ROW(169, timer_init)                                                                                               \
    ROW(170, timer_set_callback)                                                                                       \
    ROW(171, timer_start)                                                                                              \
    ROW(172, timer_cancel)                                                                                             \
    ROW(173, get_func_ip)                                                                                              \
    ROW(175, task_pt_regs)                                                                                             \
    ROW(174, get_attach_cookie)                                                                                        \
    ROW(177, trace_vprintk)                                                                                            \
    ROW(181, loop)                                                                                                     \
    ROW(182, strncmp)                                                                                                  \
    ROW(183, get_func_arg)                                                                                             \
    ROW(184, get_func_ret)                                                                                             \
    ROW(185, get_func_arg_cnt)                                                                                         \
    ROW(186, get_retval)                                                                                               \
    ROW(187, set_retval)                                                                                               \
    ROW(195, map_lookup_percpu_elem)                                                                                   \
    ROW(197, dynptr_from_mem)                                                                                          \
    ROW(198, ringbuf_reserve_dynptr)                                                                                   \
    ROW(199, ringbuf_submit_dynptr)                                                                                    \
    ROW(200, ringbuf_discard_dynptr)                                                                                   \
    ROW(201, dynptr_read)                                                                                              \
    ROW(202, dynptr_write)                                                                                             \
    ROW(203, dynptr_data)                                                                                              \
    ROW(208, ktime_get_tai_ns)                                                                                         \
    ROW(209, user_ringbuf_drain)                                                                                       \
    ROW(500, delay) /* not the kernel's: user space alone has it */

#define DECLARE(number, name)                                                                                          \
    uint64_t wb_helper_##name(struct wb_run *, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
WB_EACH_HELPER(DECLARE)
#undef DECLARE

#define HELPER(name)                                                                                                   \
    WB_EXPORT uint64_t wb_helper_##name(                                                                               \
        struct wb_run *run, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
#define UNUSED(a, b, c) ((void)run, (void)(a), (void)(b), (void)(c))
#define NO_ARGUMENTS ((void)run, (void)r1, (void)r2, (void)r3, (void)r4, (void)r5)
#define ERROR(number) ((uint64_t)-(int64_t)(number))

#endif
