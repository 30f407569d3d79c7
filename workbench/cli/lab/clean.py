"""`workbench lab clean`: give the disk space back."""

from __future__ import annotations

import argparse
import json

__all__ = ("configure", "execute")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sub-verb."""
    parser.add_argument(
        "--images", action="store_true", help="only images, which the next guest makes anew"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Remove; guests that run go on."""
    from workbench.lab.cache import Cache

    cache = Cache()
    freed = cache.remove("images") if arguments.images else cache.remove()
    if arguments.json:
        print(json.dumps({"folder": str(cache.top), "bytes": freed}))
    else:
        print(f"{freed / 1e6:,.0f} MB freed in {cache.top}")
    return 0
