"""A text column under construction, as codes and names: how many rows share few names without a loop over rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = ("TextColumn",)


@dataclass(slots=True)
class TextColumn:
    """A text column under construction: codes into names that come in bulk or one by one."""

    chunks: list[pa.Array] = field(default_factory=list)
    size: int = 0
    single: dict[str, int] = field(default_factory=dict)

    def bulk(self, names: pa.Array) -> int:
        """Append names; returns the code of the first."""
        self.chunks.append(names)
        self.size += len(names)
        return self.size - len(names)

    def listed(self, names: list[str]) -> NDArray[np.int64]:
        """Codes of names, equal names once."""
        import pyarrow as pa

        codes = np.empty(len(names), np.int64)
        fresh: list[str] = []
        for i, name in enumerate(names):
            code = self.single.get(name)
            if code is None:
                code = self.size + len(fresh)
                self.single[name] = code
                fresh.append(name)
            codes[i] = code
        if fresh:
            self.bulk(pa.array(fresh, pa.large_string()))
        return codes

    def encode(self, codes: NDArray[np.int64]) -> pa.DictionaryArray:
        """The column as a dictionary array whose dictionary is unique and holds only names that occur."""
        import pyarrow as pa

        names = pa.chunked_array(self.chunks, pa.large_string()).combine_chunks()
        unique = names.dictionary_encode()
        codes = unique.indices.to_numpy(zero_copy_only=False).astype(np.int32)[codes]
        used = np.zeros(len(unique.dictionary), bool)
        used[codes] = True
        dictionary = unique.dictionary
        if not used.all():
            renumber = np.cumsum(used, dtype=np.int32) - np.int32(1)
            codes = renumber[codes]
            dictionary = dictionary.take(pa.array(np.flatnonzero(used)))
        if dictionary.nbytes < 1 << 31:
            dictionary = dictionary.cast(pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes), dictionary)
