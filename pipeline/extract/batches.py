"""Batch one shard's images by shape, and restore the order of rows; independent of timing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def group_by_shape(
    items: Iterable[Item], shape_of: Callable[[Item], Hashable], batch_size: int, max_lag: int
) -> Iterator[list[Item]]:
    """Yield batches of items with equal shapes.

    A group leaves when it is full, or when `max_lag` items have come since its first: this bounds the memory where
    every photograph has a shape of its own. Which items share a batch depends on the items' order alone.
    """
    groups: dict[Hashable, list[Item]] = {}
    first_index: dict[Hashable, int] = {}
    for index, item in enumerate(items):
        shape = shape_of(item)
        groups.setdefault(shape, []).append(item)
        first_index.setdefault(shape, index)
        oldest = next(iter(groups))
        for leaving, due in (
            (shape, len(groups[shape]) == batch_size),
            (oldest, index - first_index[oldest] >= max_lag),
        ):
            if due and leaving in groups:
                del first_index[leaving]
                yield groups.pop(leaving)
    yield from groups.values()


def in_row_order(
    outcomes: Iterable[tuple[int, Result]], kept: Mapping[int, Callable[[], Result]], first_row: int
) -> Iterator[Result]:
    """Yield the outcomes in the order of their rows, which are first_row, first_row + 1, ...

    kept: what else there is, by row; each is called when its turn has come.
    """
    early: dict[int, Result] = {}
    row = first_row
    for at, outcome in outcomes:
        early[at] = outcome
        while row in early or row in kept:
            yield early.pop(row) if row in early else kept[row]()
            row += 1
    while row in kept:
        yield kept[row]()
        row += 1
