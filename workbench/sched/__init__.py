"""sched_ext schedulers under control, and the simulator that proves SchedCoz's rules.

What may be changed here: how a scheduler is loaded, scoped and observed, and the simulated machine around the rules;
the rules themselves are in bpf/schedcoz_rules.h and nowhere else.
"""
