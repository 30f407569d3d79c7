"""Benchmarks: ratios measured within one run on this machine, never absolute times.

Each module here has a `DESCRIPTION` (one line, shown by `workbench bench`) and `run() -> BenchResult`. A peer (memcpy,
bcc, numpy, an uninstrumented target) is measured in the same run, alternating with ours, because machines and their
load differ more than tools do. `workbench bench NAME` exits non-zero when a check fails.
"""
