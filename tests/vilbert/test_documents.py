"""Documents on disk: types, bounds, missing and unknown keys are refused by key and reason."""

from __future__ import annotations

import ast
import dataclasses
import importlib
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Len

from vilbert.documents import DOCUMENT_CONFIG, Count, Counts, Digest, List, document, from_json
from vilbert.untrusted.documents import DocumentError

ROOT = Path(__file__).parents[2]


@document
class Inner:
    count: Count
    reasons: Annotated[Counts, Len(1)] = dataclasses.field(default_factory=dict)


@document
class Outer:
    rows: tuple[Count, Count]
    name: str
    inner: Inner
    shards: List[Count]
    seconds: float
    complete: bool
    digest: Digest
    limit: Count | None = None


VALUE: dict[str, Any] = {
    "rows": [1, 2], "name": "x", "inner": {"count": 1}, "shards": [3, 4], "seconds": 1, "complete": True,
    "digest": "0" * 64, "limit": None,
}  # fmt: skip


def test_a_document_comes_back_as_an_instance() -> None:
    assert from_json(Outer, VALUE) == Outer(
        rows=(1, 2), name="x", inner=Inner(count=1), shards=(3, 4), seconds=1.0, complete=True, digest="0" * 64
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rows", [1, "2"], "rows[1] is '2': must be a whole number"),
        ("rows", [1], "rows[1] is missing"),
        ("rows", 3, "rows is 3: must be a list"),
        ("name", 4, "name is 4: must be a text"),
        ("inner", {"count": -1}, "inner.count is -1: must be at least 0"),
        ("inner", {"count": 2**53}, f"inner.count is {2**53}: must be below {2**53}"),
        ("inner", {"count": 1, "other": 2}, "inner.other is not a field of this format"),
        ("inner", {}, "inner.count is missing"),
        ("inner", {"count": 1, "reasons": {}}, "inner.reasons is {}: "),
        ("inner", [], "inner is []: must be an object"),
        ("shards", [1, 2.0], "shards[1] is 2.0: must be a whole number"),
        ("shards", [True], "shards[0] is True: must be a whole number"),
        ("seconds", "1", "seconds is '1': must be a number"),
        ("seconds", True, "seconds is True: must be a number"),
        ("seconds", float("nan"), "seconds is nan: must be a finite number"),
        ("complete", 1, "complete is 1: must be true or false"),
        ("digest", "G" * 64, "digest is "),
        ("digest", "0" * 64 + "\n", "digest is "),
        ("limit", -1, "limit is -1: must be at least 0"),
        ("stranger", 1, "stranger is not a field of this format"),
    ],
)
def test_what_is_wrong_is_refused_by_key_value_and_reason(key: str, value: Any, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        from_json(Outer, {**VALUE, key: value})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("key", VALUE)
def test_every_key_must_be_there_unless_it_is_optional(key: str) -> None:
    value = {name: part for name, part in VALUE.items() if name != key}
    with pytest.raises(DocumentError, match=f"^{key} is missing$"):
        from_json(Outer, value)
    if key == "limit":
        assert from_json(Outer, value, optional=["limit"]).limit is None


def test_the_first_wrong_item_of_a_long_list_ends_the_validation() -> None:
    with pytest.raises(DocumentError, match=r"^shards\[0\] is 'x'"):
        from_json(Outer, {**VALUE, "shards": ["x"] * 1_000_000})


def document_classes() -> list[tuple[str, str]]:
    """Return the module and the name of every class of a document."""
    sources = [
        path for name in ("extractors", "manifests", "model", "pipeline") for path in (ROOT / name).rglob("*.py")
    ]
    return [
        (".".join(("vilbert", *path.relative_to(ROOT).with_suffix("").parts)), node.name)
        for path in sorted(sources)
        if "vilbert.documents" in (text := path.read_text(encoding="utf-8"))
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and ("document" in map(ast.unparse, node.decorator_list) or _configured(node))
    ]


def _configured(node: ast.ClassDef) -> bool:
    return "DOCUMENT_CONFIG" in ast.unparse(node)


@pytest.mark.parametrize(("module", "name"), document_classes())
def test_every_document_refuses_other_values_and_unknown_keys(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    assert kind.__pydantic_config__ is DOCUMENT_CONFIG
    for value in (None, [], 1, "x"):
        with pytest.raises(DocumentError, match="must be an object"):
            from_json(kind, value)
    with pytest.raises(DocumentError, match=r"is missing|is not a field"):
        from_json(kind, {"no such key": 1})


def test_the_documents_of_the_design_are_among_them() -> None:
    names = {name for _, name in document_classes()}
    assert {"DatasetInfo", "ShardRecord", "RunDescription", "TaskCard", "ColumnFile", "Plan"} <= names
