"""Hardware watchpoints: frames `watches` and `watch_windows`."""

from __future__ import annotations

from workbench.collectors.watch.addresses import watch_spec_for_array
from workbench.collectors.watch.collector import WatchCollector

__all__ = ("WatchCollector", "watch_spec_for_array")
