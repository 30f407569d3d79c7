"""Causal profiling: what a program would gain if a part of it were faster, by experiments in the kernel's scheduler.

May be changed: how regions and progress points are named and found, how experiments are chosen, how long they last, and
what is made of them. How an experiment is carried out is `workbench.sched` and bpf/schedcoz_rules.h.
"""
