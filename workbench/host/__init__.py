"""What this machine can do, each row proven by trying: the table behind `workbench doctor`.

`doctor()` tries everything; `check(name)` tries one row and remembers the answer for the life of the process. A row is
never derived from a version number: it loads, attaches, maps or compiles the real thing once and cleans up after
itself.
"""

from __future__ import annotations

from workbench.host.table import Doctor, Row
from workbench.host.tries import NAMES, check, doctor

__all__ = ("NAMES", "Doctor", "Row", "check", "doctor")
