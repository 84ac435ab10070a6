"""Streams of one shard's images: read ahead in threads, grouped by shape, in the order of rows and never of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    """Return the results of `function` over `items` in their order, `window` of them under way or waiting at most.

    The first `window` calls start at once, before anyone asks for a result.
    """
    remaining = iter(items)
    ahead = deque(executor.submit(function, item) for item in islice(remaining, window))

    def results() -> Iterator[Result]:
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(executor.submit(function, item) for item in islice(remaining, 1))
            yield result

    return results()


def group_by_shape(
    items: Iterable[Item], shape_of: Callable[[Item], Hashable], batch_size: int, max_lag: int
) -> Iterator[list[Item]]:
    """Yield batches of items of one shape each.

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
