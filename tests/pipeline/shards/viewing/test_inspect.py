"""`vilbert inspect` shows a data set and its samples, and draws on the right photograph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.extract.photograph import read_photograph
from vilbert.pipeline.inspect import InspectSettings, drawn_lines, inspect, parse_target
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.viewing.draw import colour

from ..columns.made import make_region_column
from ..conftest import random_regions, write_small_dataset

MakeDataset = Callable[..., Any]
ROWS = (0, 1, 3, 4, 7, 8, 9)
"""The manifest rows of the samples of the default data set, in order."""


def shown(target: str, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    assert inspect(InspectSettings(target=target, json=True, **options)) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "url", "selector"),
    [
        ("s3://bucket/data", "s3://bucket/data", None),
        ("s3://bucket/data:3", "s3://bucket/data", 3),
        ("s3://bucket/data#img.jpg:7", "s3://bucket/data", "img.jpg:7"),
        ("http://host:80/data/:12", "http://host:80/data/", 12),
        ("http://host:80", "http://host:80", None),
    ],
)
def test_targets_behind_a_url(text: str, url: str, selector: int | str | None) -> None:
    assert parse_target(text) == (url, selector)


@pytest.mark.parametrize(
    ("text", "directory", "selector"),
    [
        ("data", "data", None),
        ("data:3", "data", 3),
        ("data/:3", "data", 3),
        ("data#key-1", "data", "key-1"),
        ("data#img.jpg#0", "data", "img.jpg#0"),
        ("data#a:3", "data", "a:3"),
        ("odd:5", "odd:5", None),
        ("odd:5:2", "odd:5", 2),
        ("odd:5#k", "odd:5", "k"),
        ("sharp#1", "sharp#1", None),
        ("sharp#1:7", "sharp#1", 7),
        ("sharp#1#k", "sharp#1", "k"),
        ("nowhere:3", "nowhere:3", None),
        ("data:x", "data:x", None),
        ("data#", "data#", None),
    ],
)
def test_targets(
    text: str, directory: str, selector: int | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "odd:5", "sharp#1"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_target(text) == (Path(directory), selector)


def test_the_data_set(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(str(dataset.directory), capsys)
    assert found["complete"] is True
    assert (found["samples"], found["rows"], found["failures"]) == (7, 10, {"corrupt": 2, "missing_file": 1})
    assert found["fields"] == dataset.info.fields
    assert found["fingerprint"] == dataset.info.fingerprint
    assert [sample["image_id"] for sample in found["first_samples"]] == ["photo.000", "photo.001", "photo.003"]
    assert inspect(InspectSettings(target=str(dataset.directory))) == 0
    text = capsys.readouterr().out
    for words in (dataset.info.storage, "complete", "float16  [N, 8]", "background, sky, tree", "made by hand"):
        assert words in text


def test_every_sample_by_number_by_key_and_by_image_id(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for number, row in enumerate(ROWS):
        image_id = f"photo.{row:03}"
        found = shown(f"{dataset.directory}:{number}", capsys)
        assert (found["number"], found["meta"]["image_id"]) == (number, image_id)
        assert found == shown(f"{dataset.directory}#{sample_key(image_id)}", capsys)
        assert found == shown(f"{dataset.directory}#{image_id}", capsys)


def test_what_is_shown_is_what_is_stored(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(f"{dataset.directory}:4", capsys, max_boxes=3)
    with open_shard(data_path(dataset.directory, 1, dataset.info.storage)) as reader:
        sample = reader[1]
    regions = sample.regions
    assert (found["shard"], found["sample"], found["key"]) == (1, 1, sample.key)
    assert found["meta"] == sample.meta
    for name, array in regions.arrays().items():
        field = found["fields"][name]
        assert (field["dtype"], field["shape"]) == (str(array.dtype), list(array.shape))
        assert (field["min"], field["max"], field["not_finite"]) == (array.min(), array.max(), 0)
    order = sorted(range(len(regions)), key=lambda box: -regions.object_scores[box])[:3]
    assert [thing["box"] for thing in found["objects"]] == order
    for thing in found["objects"]:
        box = thing["box"]
        assert thing["name"] == dataset.info.class_names[regions.object_ids[box]]
        assert thing["attribute"] == dataset.info.attribute_names[regions.attribute_ids[box]]
        assert thing["score"] == pytest.approx(regions.object_scores[box], abs=1e-4)
        assert thing["xyxy"] == pytest.approx(regions.boxes[box].tolist(), abs=0.06)


def test_the_text_of_a_sample(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(InspectSettings(target=f"{dataset.directory}#photo.008")) == 0
    text = capsys.readouterr().out
    assert "captions: 2\n  caption 0 of photograph 8\n  caption 1 of photograph 8\n" in text
    assert f"#{sample_key('photo.008')}" in text
    assert "120x90 pixels" in text


def test_values_that_are_not_finite_are_counted(make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]) -> None:
    def spoil(row: int, sample: Sample) -> Sample:
        features = sample.regions.features.copy()
        features[0, :2] = np.nan, np.inf
        return replace(sample, regions=replace(sample.regions, features=features))

    dataset = make_dataset(change=spoil)
    field = shown(f"{dataset.directory}:0", capsys)["fields"]["features"]
    assert field["not_finite"] == 2
    assert abs(field["max"]) < 100
    assert inspect(InspectSettings(target=f"{dataset.directory}:0")) == 0
    assert "2 NaN or infinite" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_boxes_are_drawn_on_the_photograph(dataset: Any, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"out{suffix}"
    assert inspect(InspectSettings(target=f"{dataset.directory}:3", image=picture, max_boxes=1)) == 0
    with open_shard(data_path(dataset.directory, 1, dataset.info.storage)) as reader:
        regions = reader[0].regions
    with Image.open(picture) as image:
        assert image.size == (720, 540)  # 120x90, enlarged six times
        x1, _, x2, y2 = regions.boxes[regions.object_scores.argmax()] * 6
        edge = image.getpixel((round((x1 + x2) / 2), round(y2)))
        corner_colours = {image.getpixel((1, 1)), image.getpixel((718, 538))}
    tolerance = 0 if suffix == ".png" else 60
    assert np.abs(np.subtract(edge, colour(0))).max() <= tolerance
    assert min(np.abs(np.subtract(pixel, (80, 128, 64))).max() for pixel in corner_colours) <= 3


@pytest.mark.parametrize(("options", "drawn", "listed"), [({}, 10, 20), ({"max_boxes": 15}, 15, 15)])
def test_ten_boxes_are_drawn_by_default_and_more_on_request(
    options: dict[str, int],
    drawn: int,
    listed: int,
    make_dataset: MakeDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def with_twenty_boxes(row: int, sample: Sample) -> Sample:
        arrays = {name: np.resize(array, (20, *array.shape[1:])) for name, array in sample.regions.arrays().items()}
        left = np.arange(20, dtype=np.float32) * 5
        arrays["boxes"] = np.stack([left, np.full_like(left, 40), left + 4, np.full_like(left, 50)], axis=1)
        arrays["object_scores"] = np.linspace(0.9, 0.1, 20, dtype=np.float32)
        return replace(sample, regions=replace(sample.regions, **arrays))

    dataset = make_dataset(change=with_twenty_boxes)
    picture = tmp_path / "out.png"
    found = shown(f"{dataset.directory}:0", capsys, image=picture, **options)
    assert len(found["objects"]) == listed
    with Image.open(picture) as image:
        pixels = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert [colour(box) in pixels for box in range(20)] == [True] * drawn + [False] * (20 - drawn)


def test_the_boxes_that_are_drawn_are_named_where_labels_belong_to_refined_ones(dataset: Any) -> None:
    with open_shard(data_path(dataset.directory, 0, dataset.info.storage)) as reader:
        sample = reader[0]
    with_refined = replace(sample, regions=replace(sample.regions, object_boxes=sample.regions.boxes))

    def said(saved_box: str) -> str:
        info = replace(dataset.info, fingerprint_fields={"extractor": {"selection": {"saved_box": saved_box}}})
        return "\n".join(drawn_lines(info, sample, Path("out.png"), 10))

    assert "--saved-box both" in said("proposal")
    assert "refined" not in "\n".join(drawn_lines(dataset.info, with_refined, Path("out.png"), 10))
    assert "refined" not in said("regressed")
    assert f"of {len(sample.regions)} box" in said("regressed")
    assert "refined" not in "\n".join(
        drawn_lines(replace(dataset.info, fingerprint_fields={}), sample, Path("o.png"), 1)
    )


def test_orientation_is_applied_exactly_where_it_was_for_the_detector(make_dataset: MakeDataset) -> None:
    """A photograph of 90x120 stored pixels that EXIF turns by a quarter, to 120x90."""
    stored = Image.fromarray(np.arange(120 * 90 * 3, dtype=np.uint32).reshape(120, 90, 3).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6

    def turned(row: int, sample: Sample) -> Sample:
        stored.save(sample.meta["uri"], exif=exif)
        digest = hashlib.sha256(Path(sample.meta["uri"]).read_bytes()).hexdigest()
        meta = {**sample.meta, "sha256": digest, "transposed": row != 1}
        if row == 1:  # boxes were given in pixels as stored
            return replace(sample, meta=meta, regions=replace(sample.regions, width=90, height=120))
        return replace(sample, meta=meta)

    dataset = make_dataset(change=turned)
    with open_shard(data_path(dataset.directory, 0, "tar")) as reader:
        upright, as_stored = read_photograph(reader[0]), read_photograph(reader[1])
    assert upright.shape == (90, 120, 3)
    assert np.array_equal(as_stored, np.asarray(stored))
    assert np.array_equal(upright, np.rot90(as_stored, -1))


def test_a_photograph_that_is_gone_changed_or_broken_is_said_to_be(
    make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset()
    picture = tmp_path / "out.png"

    def draw(number: int) -> None:
        inspect(InspectSettings(target=f"{dataset.directory}:{number}", image=picture))

    (tmp_path / "images/0.png").unlink()
    with pytest.raises(ShardError, match=r"cannot read the photograph '.*0\.png'"):
        draw(0)
    Image.new("RGB", (120, 90)).save(tmp_path / "images/1.png")
    with pytest.raises(ShardError, match="its sha256 differs"):
        draw(1)
    assert not picture.exists()


class Web(BaseHTTPRequestHandler):
    """Answers every request, and notes it."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_arguments: Any) -> None:
        pass


def test_a_url_of_a_data_set_leads_to_no_private_address(make_dataset: MakeDataset) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/latest/meta-data?token=abcdef"
        dataset = make_dataset(change=lambda _row, sample: replace(sample, meta={**sample.meta, "uri": url}))
        with (
            open_shard(data_path(dataset.directory, 0, "tar")) as reader,
            pytest.raises(ShardError, match=r"cannot read the photograph .*private_address") as error,
        ):
            read_photograph(reader[0])
        server.shutdown()
    assert Web.asked == []
    assert "abcdef" not in str(error.value)


def test_a_photograph_that_is_too_large_is_not_read_whole(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset()
    with (tmp_path / "images/0.png").open("wb") as file:
        file.truncate(1 << 40)
    with open_shard(data_path(dataset.directory, 0, "tar")) as reader, pytest.raises(ShardError, match="too_large"):
        read_photograph(reader[0])


def test_a_photograph_of_another_size_or_kind_is_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    def spoil(row: int, sample: Sample) -> Sample:
        meta = {name: value for name, value in sample.meta.items() if name != "sha256"}
        if row == 1:
            meta["uri"] = "nosuchprotocol://x/y.png"
        return replace(sample, meta=meta)

    dataset = make_dataset(change=spoil)
    (tmp_path / "images/0.png").write_text("<html>not found</html>")
    Image.new("RGB", (90, 120)).save(tmp_path / "images/3.png")
    with open_shard(data_path(dataset.directory, 0, "tar")) as reader:
        for sample, message in zip(reader, ("cannot be decoded", "nosuchprotocol", "is 90x120"), strict=True):
            with pytest.raises(ShardError, match=message):
                read_photograph(sample)


def test_a_picture_that_cannot_be_written_is_said_to_be(dataset: Any, tmp_path: Path) -> None:
    settings = InspectSettings(target=f"{dataset.directory}:0", image=tmp_path / "no/such/folder/out.png")
    with pytest.raises(ShardError, match="cannot be written"):
        inspect(settings)


def test_samples_that_are_not_there(dataset: Any) -> None:
    with pytest.raises(ShardError, match="the data set has 7 samples"):
        inspect(InspectSettings(target=f"{dataset.directory}:7"))
    with pytest.raises(ShardError, match="no sample of 7 has"):
        inspect(InspectSettings(target=f"{dataset.directory}#photo.002"))
    with pytest.raises(ShardError, match="no such folder; expected a data set"):
        inspect(InspectSettings(target=f"{dataset.directory}-typo:7"))


def test_usage_errors(dataset: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(dataset.directory), "--image", "out.png"]) == 2
    assert "name a sample" in capsys.readouterr().err
    for options in (["--max-boxes", "0"], ["--image", "out.tif"]):
        with pytest.raises((SystemExit, ValueError)) as refused:
            raise SystemExit(main(["inspect", f"{dataset.directory}:0", *options]))
        assert refused.value.code == 2


def test_the_regions_of_a_column(make_dataset: MakeDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset()
    (tmp_path / "other").mkdir()

    def other_boxes(row: int, sample: Sample) -> Sample:
        return replace(sample, regions=random_regions(row + 50))

    other = write_small_dataset(tmp_path / "other", change=other_boxes, failed={2: "x", 4: "x", 5: "x", 6: "x"})
    make_region_column(data.directory, other.directory, "second")
    assert main(["inspect", str(data.directory)]) == 0
    line = "second: regions with boxes of its own, features float16 [N, 8], 3 classes kept, 6 samples, 1 without one"
    assert line in capsys.readouterr().out
    place = f"{data.directory}#photo.001"
    own, column = shown(place, capsys), shown(place, capsys, column="second", image=tmp_path / "second.png")
    expected = random_regions(51)
    best = int(expected.object_scores.argmax())  # type: ignore[union-attr]
    assert column["objects"][0]["xyxy"] == [round(side, 1) for side in expected.boxes[best].tolist()]
    assert column["meta"] == own["meta"]
    assert own["columns"]["second"].startswith("4 regions: boxes, features, object_ids, ")
    assert (tmp_path / "second.png").is_file()
    for arguments, said in (
        ([place, "--column", "none"], "no finished region column with this name"),
        ([f"{data.directory}#photo.004", "--column", "second"], "has no regions for photo_004"),
        ([str(data.directory), "--column", "second"], "name a sample"),
    ):
        assert main(["inspect", *arguments]) == 2
        assert said in capsys.readouterr().err
