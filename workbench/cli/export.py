"""`workbench export`."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    from workbench.frames.export import exporters

    parser.add_argument("recording", metavar="DIR", help="folder of the recording")
    parser.add_argument(
        "-f",
        "--format",
        required=True,
        choices=[one.name for one in exporters()],
        help="; ".join(f"{one.name}: {one.meaning}" for one in exporters()),
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file to write, - for standard output"
    )
    parser.add_argument(
        "--frame", metavar="NAME", help="export this frame instead of the format's usual ones"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Write the file, or to standard output."""
    import workbench as wb
    from workbench.frames.export import export as save
    from workbench.frames.export import exporter as find

    recording = wb.load(arguments.recording)
    exporter = find(arguments.format)
    if arguments.output == "-":
        exporter.write(recording, sys.stdout.buffer, frame=arguments.frame)
        return 0
    path = save(
        recording,
        exporter.name,
        arguments.output,
        frame=arguments.frame,
        overwrite=arguments.overwrite,
    )
    size = path.stat().st_size
    if arguments.json:
        print(json.dumps({"path": str(path), "format": arguments.format, "bytes": size}))
    else:
        print(f"{path}: {arguments.format}, {size:,} bytes. {exporter.meaning}")
    return 0
