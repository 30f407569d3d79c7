"""Hardware watchpoints: frames `watches` and `watch_windows`.

`addresses` finds what to watch, `armory` and `slots` share the debug registers, `kernel` (BPF) and `signals` (SIGTRAP,
no privilege) receive hits, `decode` finds the accessing instruction; a processor is a module like `x86` and `arm64`.
"""

from __future__ import annotations

from workbench.collectors.watch.addresses import watch_spec_for_array
from workbench.collectors.watch.collector import WatchCollector

__all__ = ("WatchCollector", "watch_spec_for_array")
