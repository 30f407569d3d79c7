"""Stacks as arrays, and the tree of calls that weighted stacks form.

Everything here works on whole columns: a stack table in compressed-row form, and a tree that is built level by level
from the outermost frame, so the cost in Python is the depth of the deepest stack, not the number of stacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import MissingFrame
from workbench.frames.view import codes, optional_frame, weights

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from workbench.frames.view import RecordingView

__all__ = ("CallTree", "StackTable", "call_tree", "function_totals", "stack_table")

THREAD = "thread"
"""Space of the nodes that stand for a group of threads rather than a function."""


@dataclass(frozen=True, slots=True)
class StackTable:
    """Frame `stacks` in compressed-row form, innermost frame first.

    Parameters
    ----------
    ids : int64 (n,)
        Stack ids, ascending.
    offsets : int64 (n + 1,)
        Stack i occupies rows ``offsets[i]:offsets[i + 1]`` of `labels` and `rows`.
    labels : int64 (rows,)
        Which function: index into `names`, `modules` and `spaces`.
    rows : int64 (rows,)
        Positions of the rows in frame `stacks`, for its other columns.
    names, modules, spaces : object (k,)
        Function, module and address space of each label, as str.
    """

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    names: NDArray[np.object_]
    modules: NDArray[np.object_]
    spaces: NDArray[np.object_]

    def positions(self, stack: NDArray[Any]) -> NDArray[np.int64]:
        """Position of each stack id in `ids`; -1 for ids that the table lacks (and for id -1)."""
        if not len(self.ids):
            return np.full(len(stack), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ids, stack), len(self.ids) - 1)
        return np.where(self.ids[at] == stack, at, -1).astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames of each stack."""
        return np.diff(self.offsets)


def stack_table(stacks: pd.DataFrame) -> StackTable:
    """The compressed-row form of frame `stacks`."""
    stack = stacks["stack"].to_numpy(dtype=np.int64)
    order = np.lexsort((stacks["depth"].to_numpy(), stack))
    ids, starts = np.unique(stack[order], return_index=True)
    function, functions = codes(stacks["function"])
    module, modules = codes(stacks["module"])
    space, spaces = codes(stacks["space"])
    combined = (function * max(1, len(modules)) + module) * max(1, len(spaces)) + space
    distinct, first, label = np.unique(combined, return_index=True, return_inverse=True)
    del distinct
    names = functions[function[first]] if len(first) else np.empty(0, dtype=object)
    names[names == ""] = "[unknown]"
    return StackTable(
        ids=ids,
        offsets=np.append(starts, len(stack)).astype(np.int64),
        labels=label[order].astype(np.int64),
        rows=order.astype(np.int64),
        names=names,
        modules=modules[module[first]] if len(first) else np.empty(0, dtype=object),
        spaces=spaces[space[first]] if len(first) else np.empty(0, dtype=object),
    )


@dataclass(frozen=True, slots=True)
class CallTree:
    """Calls weighted by samples or time; node 0 is the root, parents come before their children.

    Parameters
    ----------
    parent, level, label : int64 (n,)
        Parent node (the root is its own), distance from the root, index into `names`.
    own, total : float64 (n,)
        Weight that ended in the node itself, and including everything below it.
    names, modules, spaces : object (k,)
        Text of each label.
    unit : str
        Unit of the weights.
    """

    parent: NDArray[np.int64]
    level: NDArray[np.int64]
    label: NDArray[np.int64]
    own: NDArray[np.float64]
    total: NDArray[np.float64]
    names: NDArray[np.object_]
    modules: NDArray[np.object_]
    spaces: NDArray[np.object_]
    unit: str

    def __len__(self) -> int:
        return len(self.parent)

    def layout(self) -> NDArray[np.float64]:
        """Left edge of each node, in units of weight: siblings side by side, the heaviest first."""
        left = np.zeros(len(self))
        for depth in range(1, int(self.level.max(initial=0)) + 1):
            nodes = np.flatnonzero(self.level == depth)
            order = nodes[np.lexsort((-self.total[nodes], self.parent[nodes]))]
            before = np.cumsum(self.total[order]) - self.total[order]
            starts = np.r_[True, np.diff(self.parent[order]) != 0]
            first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
            left[order] = left[self.parent[order]] + before - before[first]
        return left

    def pruned(self, minimum: float) -> CallTree:
        """The tree without nodes whose total is below `minimum` (same unit); totals stay as they were."""
        keep = self.total >= minimum
        keep[0] = True
        new = np.cumsum(keep) - 1
        return CallTree(
            new[self.parent[keep]],
            self.level[keep],
            self.label[keep],
            self.own[keep],
            self.total[keep],
            self.names,
            self.modules,
            self.spaces,
            self.unit,
        )


def grouped(recording: RecordingView, frame: str) -> tuple[StackTable, pd.DataFrame]:
    """The stacks of a recording and one of its frames that refers to them.

    Raises
    ------
    MissingFrame
        The frame, its stacks or its rows are missing.
    """
    table = recording.frame(frame)
    if "stack" not in table.columns:
        raise MissingFrame(f"frame {frame!r} has no stacks", "use samples, calls, offcpu or faults")
    if not len(table):
        raise MissingFrame(
            f"frame {frame!r} of recording {recording.name!r} is empty",
            "record longer, or at a higher rate",
        )
    stacks = optional_frame(recording, "stacks")
    if stacks is None:
        raise MissingFrame(
            f"recording {recording.name!r} has no stacks", "record with stacks, e.g. --collect cpu"
        )
    return stack_table(stacks), table


def call_tree(recording: RecordingView, frame: str = "samples", by: str | None = None) -> CallTree:
    """The tree of calls of `frame`: root, then thread names, then functions from the outermost inwards.

    Parameters
    ----------
    by : "time", "count" or None
        Weight of a row, see `workbench.frames.view.weights`.

    Raises
    ------
    MissingFrame
        The frame or its stacks were not recorded.
    """
    stacks, table = grouped(recording, frame)
    weight, unit = weights(recording, frame, by)
    thread, threads = codes(table["comm"])
    position = stacks.positions(table["stack"].to_numpy())
    key = thread * (len(stacks.ids) + 1) + position + 1
    path, inverse = np.unique(key, return_inverse=True)
    load = np.bincount(inverse, weights=weight, minlength=len(path))
    group = path // (len(stacks.ids) + 1)
    where = path % (len(stacks.ids) + 1) - 1
    length = np.where(where >= 0, stacks.lengths[where] if len(stacks.ids) else 0, 0)

    base = len(stacks.names)
    labels = base + 1 + len(threads)
    parent = [np.zeros(1, dtype=np.int64)]
    label = [np.full(1, base + len(threads), dtype=np.int64)]
    node = np.zeros(len(path), dtype=np.int64)
    active = np.arange(len(path))
    count, depth = 1, 0
    while len(active):
        if depth == 0:
            symbol = base + group
        else:
            last = stacks.offsets[where[active] + 1] - 1
            symbol = stacks.labels[last - (depth - 1)]
        pair, at = np.unique(node[active] * labels + symbol, return_inverse=True)
        parent.append(pair // labels)
        label.append(pair % labels)
        node[active] = count + at
        count += len(pair)
        active = active[length[active] > depth]
        depth += 1

    own = np.bincount(node, weights=load, minlength=count).astype(np.float64)
    parents = np.concatenate(parent)
    total = own.copy()
    edges = np.cumsum([0, *(len(part) for part in parent)])
    for low, high in zip(edges[-2:0:-1], edges[:1:-1], strict=True):
        total += np.bincount(parents[low:high], weights=total[low:high], minlength=count)
    level = np.repeat(np.arange(len(parent)), [len(part) for part in parent])
    extra = len(threads) + 1
    return CallTree(
        parents,
        level.astype(np.int64),
        np.concatenate(label),
        own,
        total,
        np.concatenate([stacks.names, threads, np.array(["all"], dtype=object)]),
        np.concatenate([stacks.modules, np.full(extra, "", dtype=object)]),
        np.concatenate([stacks.spaces, np.full(extra, THREAD, dtype=object)]),
        unit,
    )


def function_totals(
    recording: RecordingView, frame: str = "samples", by: str | None = None
) -> tuple[pd.DataFrame, str]:
    """Self and total weight of every function of `frame`; recursion counts once per stack.

    Returns
    -------
    (DataFrame, unit)
        Columns: function (str), module (str), space (str), self (float64), total (float64), both in `unit`,
        heaviest self first. Rows without a stack are listed as ``[no stack]``.
    """
    import pandas as pd

    stacks, table = grouped(recording, frame)
    weight, unit = weights(recording, frame, by)
    position = stacks.positions(table["stack"].to_numpy())
    load = np.bincount(position + 1, weights=weight, minlength=len(stacks.ids) + 1)
    lost, load = float(load[0]), load[1:]
    own = np.bincount(stacks.labels[stacks.offsets[:-1]], weights=load, minlength=len(stacks.names))
    owner = np.repeat(np.arange(len(stacks.ids)), stacks.lengths)
    pair = np.unique(owner * max(1, len(stacks.names)) + stacks.labels)
    total = np.bincount(
        pair % len(stacks.names),
        weights=load[pair // len(stacks.names)],
        minlength=len(stacks.names),
    )
    extra = [lost] if lost else []
    result = pd.DataFrame(
        {
            "function": [*stacks.names, *("[no stack]" for _ in extra)],
            "module": [*stacks.modules, *("" for _ in extra)],
            "space": [*stacks.spaces, *("" for _ in extra)],
            "self": [*own, *(lost for _ in extra)],
            "total": [*total, *(lost for _ in extra)],
        }
    )
    result = result[result["total"] > 0]
    return result.sort_values(["self", "total"], ascending=False, ignore_index=True), unit
