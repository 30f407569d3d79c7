"""`workbench export`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from workbench.errors import BadSpec, NotPermitted

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
    """Write the file under a temporary name and rename it: no half-written export is ever seen."""
    import workbench as wb
    from workbench.frames.export import exporter as find

    recording = wb.load(arguments.recording)
    exporter = find(arguments.format)
    if arguments.output == "-":
        exporter.write(recording, sys.stdout.buffer, frame=arguments.frame)
        return 0
    path = Path(arguments.output)
    if path.exists() and not arguments.overwrite:
        raise BadSpec(f"{path} exists", "say --overwrite to replace it")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as sink:
            exporter.write(recording, sink, frame=arguments.frame)
        part.replace(path)
    except OSError as error:
        raise NotPermitted(
            f"cannot write {path}: {error.strerror}", "choose another file with -o"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    size = path.stat().st_size
    if arguments.json:
        print(json.dumps({"path": str(path), "format": arguments.format, "bytes": size}))
    else:
        print(f"{path}: {arguments.format}, {size:,} bytes. {exporter.meaning}")
    return 0
