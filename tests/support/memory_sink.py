"""A sink in memory, for tests of one collector without a recorder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


class MemorySink:
    """Keeps what collectors append; `frame` gives it as a DataFrame."""

    def __init__(self) -> None:
        self.parts: dict[str, list[pd.DataFrame]] = {}
        self.stacks: list[tuple[int, tuple[int, ...]]] = []
        self.declared: dict[str, str] = {}
        self._ids: dict[tuple[int, tuple[int, ...]], int] = {}

    def append(self, frame: str, columns: Any) -> None:
        made = {}
        for name, values in columns.items():
            if hasattr(values, "to_pylist"):
                values = values.to_pylist()
            elif isinstance(values, np.ndarray):
                values = values.copy()
            values = list(values)
            made[name] = [
                v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values
            ]
        assert len({len(v) for v in made.values()}) <= 1, {k: len(v) for k, v in made.items()}
        self.parts.setdefault(frame, []).append(pd.DataFrame(made))

    def intern(self, pids: Any, addresses: Any, lengths: Any, times: Any = None) -> Any:
        out, at = [], 0
        for pid, length in zip(pids.tolist(), lengths.tolist(), strict=True):
            key = (pid, tuple(addresses[at : at + length].tolist()))
            at += length
            out.append(-1 if not length else self._ids.setdefault(key, len(self._ids)))
        self.stacks = list(self._ids)
        return np.array(out, np.int32)

    def declare(self, frame: str, name: str, dtype: str, unit: str, meaning: str) -> None:
        self.declared[name] = dtype

    def frame(self, name: str) -> pd.DataFrame:
        parts = self.parts.get(name, [])
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
