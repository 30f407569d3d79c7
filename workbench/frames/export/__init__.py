"""Write a recording in the file formats of other tools.

>>> wb.export(recording, "folded", "run.folded")
"""

from __future__ import annotations

from workbench.frames.export.base import Exporter, exporter, exporters, register
from workbench.frames.export.folded import Folded
from workbench.frames.export.perfetto import Perfetto
from workbench.frames.export.pprof import Pprof
from workbench.frames.export.save import export
from workbench.frames.export.speedscope import Speedscope

__all__ = ("Exporter", "export", "exporter", "exporters", "register")

for _one in (Folded(), Perfetto(), Pprof(), Speedscope()):
    register(_one)
