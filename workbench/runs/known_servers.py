"""Real servers, predicted and then really made faster, as notebook 04 shows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import MissingFrame
from workbench.frames.recording import load

if TYPE_CHECKING:
    import pandas as pd

    from workbench.frames.recording import Recording

__all__ = ("TITLES", "measure_servers", "read_servers", "table")

#: What a reader calls the demonstrations of `workbench.causal.demonstrations`.
TITLES = {
    "redis": "Redis",
    "nginx": "NGINX",
    "nginx-application": "NGINX and application",
    "sqlite": "SQLite",
    "memcached": "memcached",
}


def measure_servers(output: str | Path, *, servers: str = "", repeats: int = 3) -> Path:
    """Run the demonstrations in a deterministic guest; see `workbench bench causal-servers`.

    Parameters
    ----------
    output : path
        Folder that gets a recording for each.
    servers : str
        Names with commas between; by default all.
    repeats : int
        Experiments of each kind.
    """
    from workbench.bench.causal_servers import run

    run(servers=servers, repeats=repeats, recordings=str(output))
    return Path(output)


def read_servers(folder: str | Path) -> dict[str, Recording]:
    """Recordings of demonstrations in the folders below this one, by what a reader calls them.

    Raises
    ------
    MissingFrame
        There is none.
    """
    found = {
        TITLES.get(path.parent.name, path.parent.name): load(path.parent)
        for path in sorted(Path(folder).rglob("manifest.json"))
    }
    if not found:
        raise MissingFrame(
            f"no recording is below {folder}", "`workbench bench causal-servers --recordings DIR`"
        )
    return found


def table(servers: dict[str, Recording]) -> pd.DataFrame:
    """The bottleneck of each: its rank among the regions, the speed-up, and the change predicted and measured, %."""
    import pandas as pd

    rows = []
    for name, recording in servers.items():
        frame = recording.frame("demonstration_gains").astype({"spot": str})
        own = frame[frame["bottleneck"].astype(bool)]
        rank = int(own["rank"].max())
        about = str(recording.manifest.options.get("about", ""))
        for _, one in own[own["measured"].notna()].sort_values("speedup").iterrows():
            rows.append((name, about, rank, one["speedup"], one["predicted"], one["measured"]))
    columns = ["server", "bottleneck", "rank", "speedup", "predicted", "measured"]
    found = pd.DataFrame(rows, columns=columns)
    return found.assign(error=found["predicted"] - found["measured"])
