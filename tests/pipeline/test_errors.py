"""Errors say what, where and what to do, also after a journey between processes."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from vilbert.pipeline.errors import (
    CorruptShardError,
    FingerprintError,
    LockedError,
    OutputError,
    RefusedError,
    ShardError,
)


@pytest.mark.parametrize("remedy", [None, "restore it from a copy"])
def test_a_corrupt_shard_is_named_here_and_in_another_process(remedy: str | None) -> None:
    error = CorruptShardError("is cut", path=Path("d/shards/000003.tar"), offset=512, key="k", remedy=remedy)
    expected = remedy or (
        "delete 000003.tar and 000003.json and run the same `vilbert extract` or `vilbert convert` again: "
        "it rewrites this shard"
    )
    for arrived in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(arrived, ShardError)
        assert str(arrived) == f"d/shards/000003.tar, byte 512, key 'k': is cut; {expected}"
        assert (arrived.path, arrived.offset, arrived.key, arrived.problem) == (error.path, 512, "k", "is cut")


PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
INTERNAL = {"NoRoomError", "WorkerLostError", "DroppedError", "RowError", "InterruptedEvaluationError", "_LoadError"}
"""Exceptions that the module or folder that raises them also handles; a user never sees one."""


def test_bad_input_a_refused_output_and_a_damaged_file_are_different_classes() -> None:
    assert issubclass(OutputError, RefusedError)
    assert all(issubclass(kind, OutputError) for kind in (FingerprintError, LockedError))
    assert not issubclass(CorruptShardError, RefusedError)
    assert not issubclass(RefusedError, CorruptShardError)


def test_each_exception_class_belongs_to_the_tree() -> None:
    bases = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path in PIPELINE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    }
    roots = {"ShardError", "TrainingError", "StoppedError"}
    known = {*roots, *INTERNAL, "ValueError", "ImageError"}

    def is_known(name: str) -> bool:
        return name in known or any(is_known(base) for base in bases.get(name, []))

    assert [name for name in bases if not is_known(name)] == []


def test_a_refused_output_is_an_output_error() -> None:
    found = []
    for path in PIPELINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Raise(
                    exc=ast.Call(func=ast.Name(id="RefusedError" | "ShardError" as kind), args=[message, *_])
                ):
                    if "'--output " in (text := ast.unparse(message)) and "cannot be written" not in text:
                        found.append(f"{path.relative_to(PIPELINE)}:{node.lineno}: {kind}")
    assert found == []
