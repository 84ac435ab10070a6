"""The whole stage from a web server, some of whose pages are wrong: as from files but for the rows that failed."""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from vilbert.manifests.build import ManifestSettings, build_manifest
from vilbert.pipeline.cli import main
from vilbert.pipeline.shapes.render import render
from vilbert.pipeline.shapes.scene import make_scene
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import encode_members
from vilbert.pipeline.shards.storage.store import open_shard

from .web import Page, Web, body, drop, failing, redirect, silent, status

ROWS = 22
Extracted = Callable[..., Path]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for row in range(ROWS):
        render(make_scene(0, row)).save(folder / f"{row}.png")
    return folder


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


def late(content: bytes, seconds: float) -> Page:
    """A page that takes its time."""

    def page(handler: Any) -> None:
        time.sleep(seconds)
        body(content)(handler)

    return page


def extract(folder: Path, name: str, uris: list[str], *options: str) -> Path:
    """Extract images 0, 1, … with these uris."""
    lines = ["image_id,path,caption,split", *(f"{row},{uri},a,train" for row, uri in enumerate(uris))]
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    manifest = folder / f"{name}.parquet"
    sources = (folder / f"{name}.csv",)
    assert build_manifest(ManifestSettings(sources=sources, images=folder, output=manifest)) == 0
    arguments = [str(manifest), "--output", str(folder / name), "--detector", "shapes", "--backend", "local"]
    limits = ["--fetch-timeout", "1", "--read-timeout", "0.5", "--backoff", "0.01", "--allow-private-addresses"]
    assert main(["extract", *arguments, "--shard-size", "8", "--batch-size", "4", *limits, *options]) == 0
    return folder / name


def samples(dataset: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Return the members of each sample but for the uri in its metadata, by image id."""
    found = {}
    for record in read_records(dataset).values():
        for sample in open_shard(dataset / "shards" / record.file):
            sample.meta.pop("uri")
            found[sample.meta["image_id"]] = encode_members(sample)
    return found


def failures(dataset: Path) -> dict[str, str]:
    lines = [line for path in sorted((dataset / "failures").iterdir()) for line in path.read_text().splitlines()]
    return {row["image_id"]: row["reason"] for row in map(json.loads, lines)}


def test_from_a_server_with_wrong_pages_as_from_files(web: Web, pictures: Path, tmp_path: Path) -> None:
    contents = [(pictures / f"{row}.png").read_bytes() for row in range(ROWS)]
    delays = random.Random(0)
    web.pages |= {f"/{row}.png": late(content, delays.random() / 10) for row, content in enumerate(contents)}
    web.pages |= {
        "/1.png": status(404),
        "/3.png": silent(web),
        "/4.png": failing(1, status(503), body(contents[4])),
        "/6.png": body(b"<!DOCTYPE html><html>no such image</html>", Content_Type="image/png"),
        "/7.png": redirect("/elsewhere.png"),
        "/elsewhere.png": body(contents[7], Content_Type="text/html"),
        "/9.png": redirect("/9.png"),
        "/12.png": drop,
        "/13.png": body(b""),
        "/15.png": body(contents[15][:500]),
        "/17.png": body(bytes(400_000)),
        "/20.png": failing(2, drop, body(contents[20])),
    }
    remote = [web.url(f"/{row}.png") for row in range(ROWS)]
    remote[21] = str(pictures / "21.png")  # files and URLs in one manifest
    found = extract(tmp_path, "remote", remote, "--max-bytes", "300kB")
    wrong = {
        "1": "http_404",
        "3": "timeout",
        "6": "not_an_image",
        "9": "redirects",
        "12": "connection",
        "13": "empty",
        "15": "truncated",
        "17": "too_large",
    }
    assert failures(found) == wrong
    local = [str(pictures / f"{row}.png") for row in range(ROWS)]
    for row in wrong:
        local[int(row)] = str(pictures / "none.png")
    assert samples(extract(tmp_path, "local", local, "--max-bytes", "300kB")) == samples(found)


def test_neither_threads_nor_memory_nor_order_change_a_byte(web: Web, pictures: Path, tmp_path: Path) -> None:
    delays = random.Random(1)
    for row in range(ROWS):
        web.pages[f"/{row}.png"] = late((pictures / f"{row}.png").read_bytes(), delays.random() / 20)
    web.pages["/5.png"] = status(410)
    remote = [web.url(f"/{row}.png") for row in range(ROWS)]
    tight = ("--fetch-threads", "2", "--fetch-ahead", "3", "--fetch-memory", "1kB", "--per-host", "1")
    first, second = extract(tmp_path, "first", remote), extract(tmp_path, "second", remote, *tight)
    assert read_dataset(first).records_sha256 == read_dataset(second).records_sha256


@pytest.mark.parametrize("format", ["tar", "lmdb"])
def test_kept_images_are_the_bytes_that_came(
    web: Web, pictures: Path, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = [(pictures / f"{row}.png").read_bytes() for row in range(5)]
    web.pages |= {f"/{row}.png": body(content) for row, content in enumerate(contents)}
    remote = [web.url(f"/{row}.png") for row in range(5)]
    options = ("--format", format)
    kept = extract(tmp_path, "kept", remote, "--keep-images", *options)
    plain = extract(tmp_path, "plain", remote, *options)
    with (
        open_shard(kept / f"shards/000000.{format}") as shard,
        open_shard(plain / f"shards/000000.{format}") as without,
    ):
        assert [sample.image for sample in shard] == contents
        assert [sample.image for sample in without] == [None] * 5
        fields = ("boxes", "features")
        for index in range(5):  # what training reads
            (arrays, about), (others, about_others) = shard.read(index, fields), without.read(index, fields)
            assert about == about_others
            assert all((arrays[name] == others[name]).all() for name in fields)
    web.close()  # the photograph is in the data set
    assert main(["verify", str(kept), "--deep"]) == 0
    capsys.readouterr()
    assert main(["inspect", f"{kept}:1", "--image", str(tmp_path / "drawn.png")]) == 0
    assert f"{len(contents[1]):,} bytes, kept" in capsys.readouterr().out
    assert main(["inspect", f"{plain}:1", "--image", str(tmp_path / "drawn.png")]) != 0


def test_a_missing_package_ends_the_run_before_it_writes_a_shard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.register_implementation("nodriver", "package_that_is_not_there.FileSystem", clobber=True)
    (tmp_path / "list.csv").write_text("image_id,path\n0,nodriver://bucket/0.jpg\n")
    manifest = tmp_path / "manifest.parquet"
    assert build_manifest(ManifestSettings(sources=(tmp_path / "list.csv",), output=manifest)) == 0
    arguments = ["extract", str(manifest), "--output", str(tmp_path / "data"), "--detector", "shapes"]
    assert main([*arguments, "--backend", "local"]) == 2
    assert "package_that_is_not_there" in caplog.text + capsys.readouterr().err
    assert not list((tmp_path / "data").glob("shards/*"))


def test_keeping_images_is_a_setting_of_the_data_set(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(tmp_path, "data", [str(pictures / "0.png")])
    arguments = ["extract", str(tmp_path / "data.parquet"), "--output", str(tmp_path / "data"), "--keep-images"]
    assert (
        main([*arguments, "--detector", "shapes", "--backend", "local", "--shard-size", "8", "--batch-size", "4"]) == 2
    )
    assert "keep_images: null in the data set, true requested" in caplog.text + capsys.readouterr().err


def test_a_webdataset_reader_sees_the_kept_image(pictures: Path, tmp_path: Path) -> None:
    import webdataset

    kept = extract(tmp_path, "kept", [str(pictures / "0.png")], "--keep-images")
    stream = webdataset.WebDataset(str(kept / "shards/000000.tar"), shardshuffle=False)
    (sample,) = stream.decode("rgb8")
    assert sample["jpg"].shape == (sample["json"]["height"], sample["json"]["width"], 3)
