"""Enter a process and run programs at places in its code: uprobe, uretprobe, override, replace, USDT.

`Process` is the way in; `agent` and `remote` put our memory into the target, `relocate` and `trampoline` make the
code, `stop` holds the threads. A new kind of hook is a module that makes sites, and a number in `layout`.
"""

from workbench.runtime.attach.link import HookKind, Link, Program, Request, Spot
from workbench.runtime.attach.modules import address_of
from workbench.runtime.attach.process import Process
from workbench.runtime.attach.records import Collected, collect, orphans
from workbench.runtime.attach.start import Started

__all__ = (
    "Collected",
    "HookKind",
    "Link",
    "Process",
    "Program",
    "Request",
    "Spot",
    "Started",
    "address_of",
    "collect",
    "orphans",
)
