"""Every field that is edited by hand is found by `vilbert verify`, and no command answers with a traceback.

The fast check finds each but the texts that dataset.json alone has; docs/verify.md lists those.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.inspect import InspectSettings, inspect
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.viewing.stats import StatsSettings, stats
from vilbert.pipeline.train.data.corpus import Corpus

from .conftest import SmallDataset, write_small_dataset

SAID_NOWHERE_ELSE = {
    ("class_names",), ("attribute_names",), ("manifest",), ("manifest_hash",), ("limit",), ("software",),
}  # fmt: skip
"""Fields of dataset.json, by the first name of their path, whose well-formed change the fast check does not find."""
Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDataset:
    """Return a data set that nothing is wrong with."""
    return write_small_dataset(tmp_path_factory.mktemp("whole"))


def fields(document: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of each value inside a document."""
    for name, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (*path, name)
        if isinstance(value, (dict, list)):
            yield from fields(value, (*path, name))


def deep() -> Any:
    value: Any = 0
    for _ in range(400):
        value = [value]
    return value


def others(value: Any) -> list[Any]:
    """Return values of the same kind and of other kinds to put in the place of one."""
    odd: list[Any] = [None, True, -1, 0, 3.5, "x", [], {}, [["x"]], {"x": {"y": 1}}, 2**62, 10**400, deep(), "0" * 64]
    if type(value) is int:
        odd += [value + 1, value - 1]
    if isinstance(value, str):
        odd += [value[:-1], value + "x", value.swapcase()]
    return [other for other in odd if other != value or type(other) is not type(value)]


def changed(document: Any, path: Path_, value: Any) -> Any:
    """Return a copy with another value at a path."""
    result = copy.deepcopy(document)
    inner = result
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return result


def same_kind(old: Any, new: Any) -> bool:
    if isinstance(old, list) and old and isinstance(new, list):
        return all(isinstance(item, str) for item in new)
    if isinstance(old, dict) and isinstance(new, dict):
        return all(isinstance(item, str) for item in new.values())
    return type(old) is type(new) or old is None


def hidden(path: Path_, old: Any, new: Any) -> bool:
    """Say whether the fast check need not find this change of dataset.json."""
    if path[:1] not in SAID_NOWHERE_ELSE:
        return False
    if path == ("limit",):
        return type(new) is int and new >= 10
    return same_kind(old, new)


def read_everything(directory: Path) -> None:
    """Do what commands do; raise what is no message for a person."""
    for command in (
        lambda: stats(StatsSettings(directory=directory, json=True)),
        lambda: inspect(InspectSettings(target=f"{directory}:0", json=True)),
        lambda: inspect(InspectSettings(target=str(directory))),
        lambda: Corpus.open([str(directory)], split=None),
    ):
        with contextlib.suppress(ShardError):
            command()


SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(st.data())
def test_an_edit_of_dataset_json_is_found(whole: SmallDataset, tmp_path_factory: Any, data: st.DataObject) -> None:
    file = whole.directory / "dataset.json"
    before = file.read_bytes()
    document = json.loads(before)
    path = data.draw(st.sampled_from(list(fields(document))))
    old = document
    for name in path:
        old = old[name]
    new = data.draw(st.sampled_from(others(old)))
    try:
        file.write_bytes(encode_json(changed(document, path, new), indent=2) + b"\n")
        assert hidden(path, old, new) or whole.findings(), f"{path}: {old!r} became {new!r}"
        read_everything(whole.directory)
    finally:
        file.write_bytes(before)


@SETTINGS
@given(st.data())
def test_an_edit_of_a_record_is_found(whole: SmallDataset, data: st.DataObject) -> None:
    file = whole.record_file(data.draw(st.integers(0, 2)))
    before = file.read_bytes()
    document = json.loads(before)
    path = data.draw(st.sampled_from(list(fields(document))))
    old = document
    for name in path:
        old = old[name]
    new = data.draw(st.sampled_from(others(old)))
    try:
        file.write_bytes(encode_json(changed(document, path, new)) + b"\n")
        assert whole.findings(), f"{path}: {old!r} became {new!r}"
        read_everything(whole.directory)
        with pytest.raises(ShardError):
            Corpus.open([str(whole.directory)], split=None)
    finally:
        file.write_bytes(before)


@SETTINGS
@given(st.data())
def test_an_edit_of_a_failure_is_found(whole: SmallDataset, data: st.DataObject) -> None:
    file = whole.directory / "failures" / "000001.jsonl"
    before = file.read_bytes()
    lines = before.splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    document = json.loads(lines[number])
    name = data.draw(st.sampled_from(sorted(document)))
    new = data.draw(st.sampled_from(others(document[name])))
    try:
        lines[number] = encode_json({**document, name: new})
        file.write_bytes(b"\n".join(lines) + b"\n")
        assert {finding.where.partition(" ")[0] for finding in whole.findings()} == {"failures/000001.jsonl"}
        read_everything(whole.directory)
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["dataset.json", "shards/000001.json", "failures/000001.jsonl"])
@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b"[]", b"1e999", b'"\\ud800"']
)
def test_no_document_ends_a_command_in_a_traceback(
    whole: SmallDataset, tmp_path: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Path(shutil.copytree(whole.directory, tmp_path / "d"))
    (directory / name).write_bytes(content)
    assert main(["verify", str(directory)]) == 1
    assert main(["verify", str(directory), "--deep"]) == 1
    run = ["--output", str(tmp_path / "run"), "--eval-split", "none", "--device", "cpu"]
    for command in (["stats", str(directory)], ["inspect", str(directory)], ["pretrain", str(directory), *run]):
        if name.startswith("failures"):
            continue  # they read none
        assert main(command) == 1
    assert "Traceback" not in capsys.readouterr().err


META: dict[str, Any] = {
    "captions": [None, 5, "text", [1], [None], {"a": 1}],
    "split": [None, 5, ["train"], {"a": 1}],
    "uri": [None, 5, ["a"]],
    "sha256": [None, 5, "0" * 63],
    "transposed": ["x"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in META.items() for value in values])
@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_metadata_of_another_kind_is_no_traceback(
    make_dataset: Callable[..., SmallDataset], name: str, value: Any, storage: str
) -> None:
    """As other software may write it: the records say what is there."""
    made = make_dataset(
        storage=storage,
        change=lambda row, sample: replace(sample, meta={**sample.meta, name: value}),
        rows=3,
        shard_size=4,
        failed={},
    )
    read_everything(made.directory)
    if name in ("captions", "split", "uri"):
        assert made.findings(deep=True)
