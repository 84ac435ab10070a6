"""The report of loading a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SHOWN = 8
"""Maximum number of names in a message."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The result for every parameter of a model and every tensor of a checkpoint, by name."""

    layout: str
    """Layout of the names in the checkpoint."""
    loaded: tuple[str, ...]
    """Parameters of the model that were loaded from the checkpoint."""
    missing: tuple[str, ...]
    """Parameters of the model that are missing in the checkpoint; they are unchanged."""
    unread: tuple[str, ...] = ()
    """Missing parameters that are unused, `biOutput.q_dense1` and `2`; they are unchanged."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the checkpoint with names that no known layout has."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """Heads skipped for their size: the parameter, its shape in the checkpoint, its shape in the model."""
    unused: tuple[str, ...] = ()
    """Known tensors of the checkpoint that this model does not have: other heads, BERT's pooler."""
    notes: tuple[str, ...] = ()
    """Differences that do not prevent loading."""

    def __str__(self) -> str:
        """Return the report as a few lines of text."""
        rows: list[tuple[str, Sequence[str]]] = [
            ("missing, unchanged", self.missing),
            ("unexpected", self.unexpected),
            ("skipped because of their size", [f"{name} {shape(a)}, not {shape(b)}" for name, a, b in self.mismatched]),
            ("unused by this model", self.unused),
            ("missing, never used", self.unread),
        ]
        lines = [f"loaded {len(self.loaded):,} tensors ({self.layout} layout)"]
        lines += [f"  {len(names):,} {what}: {some(names)}" for what, names in rows if names]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_json(self) -> str:
        """Return the report as one JSON object with the fields as keys."""
        return json.dumps(asdict(self), indent=2)


def shape(sizes: tuple[int, ...]) -> str:
    """Format a shape like torch."""
    return str(list(sizes))


def some(names: Sequence[str]) -> str:
    """Format the first names of a list."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
