"""What loading a checkpoint says of every parameter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

SHOWN = 8
"""Names of many that a message lists."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every parameter of a model and every tensor of a checkpoint, by name."""

    layout: str
    """Whose names the checkpoint has."""
    loaded: tuple[str, ...]
    """Parameters of the model that have the checkpoint's values."""
    missing: tuple[str, ...]
    """Parameters of the model that the checkpoint lacks; they stay as they were."""
    unread: tuple[str, ...] = ()
    """Those it lacks that no computation reads, `biOutput.q_dense1` and `2`; they stay as they were."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the checkpoint with names that no known layout has."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """Heads skipped for their size: the parameter, its shape in the checkpoint, its shape in the model."""
    unused: tuple[str, ...] = ()
    """Tensors of the checkpoint that are known, and that this model has no place for: other heads, BERT's pooler."""
    notes: tuple[str, ...] = ()
    """Differences that do not keep the checkpoint from being loaded."""

    def __str__(self) -> str:
        """Return a few lines for a person."""
        rows: list[tuple[str, Sequence[str]]] = [
            ("missing, left as they were", self.missing),
            ("unexpected", self.unexpected),
            ("skipped for their size", [f"{name} {shape(a)}, not {shape(b)}" for name, a, b in self.mismatched]),
            ("without a place in this model", self.unused),
            ("missing, and read by nothing", self.unread),
        ]
        lines = [f"loaded {len(self.loaded):,} tensors ({self.layout} layout)"]
        lines += [f"  {len(names):,} {what}: {some(names)}" for what, names in rows if names]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_json(self) -> str:
        """Return the report as one JSON object, its fields by their names."""
        return json.dumps(asdict(self), indent=2)


def shape(sizes: tuple[int, ...]) -> str:
    """Write a shape as torch does."""
    return str(list(sizes))


def some(names: Sequence[str]) -> str:
    """Write the first of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
