"""A folder on a disk and one behind a URL do the same for whoever writes and reads a data set."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder, open_folder, parse_place
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder

FILES = ["failures/000000.jsonl", "shards/000000.tar", "shards/000000.json"]


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    made = open_folder(tmp_path / "set" if request.param == "disk" else "memory://folders/set/")
    made.make()
    yield made
    fsspec.filesystem("memory").store.clear()


def build(folder: Folder, content: bytes) -> None:
    with folder.building() as built:
        for name in FILES:
            (built / name).parent.mkdir(exist_ok=True)
            (built / name).write_bytes(content + name.encode())
        folder.publish(built, FILES)


def read(folder: Folder, *names: str) -> dict[str, bytes]:
    with folder.local(names) as directory:
        return {name: (directory / name).read_bytes() for name in names if (directory / name).exists()}


def test_what_is_published_is_listed_and_read(folder: Folder) -> None:
    assert list(folder.entries("shards")) == []
    build(folder, b"first ")
    assert dict(folder.entries("shards")) == {"000000.tar": 23, "000000.json": 24}
    assert dict(folder.entries("")) == {"shards": None, "failures": None}
    build(folder, b"second ")
    assert read(folder, *FILES, "shards/000001.tar") == {name: b"second " + name.encode() for name in FILES}


def test_small_files_are_written_over_older_ones(folder: Folder) -> None:
    for content in (b"one", b"another"):
        folder.write("dataset.json", content)
        assert read(folder, "dataset.json") == {"dataset.json": content}


def test_it_goes_to_another_process(folder: Folder) -> None:
    folder.write("dataset.json", b"{}")
    assert read(pickle.loads(pickle.dumps(folder)), "dataset.json") == {"dataset.json": b"{}"}


def test_of_two_who_create_a_file_one_does() -> None:
    folder = RemoteFolder("memory://data/set")
    assert folder.create("x", b"mine")
    assert not folder.create("x", b"yours")
    assert folder.create("x", b"mine")  # the answer to the first may have been lost
    assert folder.read("x") == b"mine"
    assert folder.read("y") is None
    folder.delete("x")
    folder.delete("x")
    assert folder.read("x") is None
    fsspec.filesystem("memory").store.clear()


def test_damage_of_a_fetched_file_is_named_by_its_url() -> None:
    folder = RemoteFolder("memory://user:secret@data/set")
    with pytest.raises(CorruptShardError, match=r"^memory://data/set/shards/000000\.tar, byte 7: is cut; ") as raised:  # noqa: SIM117
        with folder.local([]) as directory:
            raise CorruptShardError("is cut", path=directory / "shards" / "000000.tar", offset=7)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("features", Path("features")),
        ("/data/a b", Path("/data/a b")),
        ("file:///data/a%20b", Path("/data/a b")),
        ("s3://bucket/a//b", "s3://bucket/a//b"),
    ],
)
def test_places(text: str, place: Path | str) -> None:
    assert parse_place(text) == place
    assert isinstance(open_folder(parse_place(text)), LocalFolder) == isinstance(place, Path)


def test_a_command_is_no_place() -> None:
    with pytest.raises(RefusedError, match="commands are not run"):
        parse_place("pipe:cat")
