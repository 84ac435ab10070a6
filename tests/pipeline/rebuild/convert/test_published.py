"""Published features become shards like any other source: imported, joined, selected, resumed."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import FingerprintError, ShardError
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.formats.detect import open_published
from vilbert.pipeline.rebuild.formats.importers import content_hash
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.shards.dataset import read_dataset

from .conftest import files, samples

Run = Callable[..., Path]


def write_tsv(path: Path, images: range) -> dict[int, np.ndarray]:
    """Write rows as Anderson et al. 2018 publish them, and return the features."""
    features = {}
    with io.StringIO() as text:
        rows = csv.writer(text, delimiter="\t", lineterminator="\n")
        for image in images:
            draw = np.random.default_rng(image)
            boxes = np.sort(draw.uniform(0, 300, (3, 2, 2)), axis=1).reshape(3, 4).astype(np.float32)
            features[image] = draw.random((3, 2048), np.float32)
            rows.writerow(
                [image, 400, 300, 3, *(base64.b64encode(array).decode() for array in (boxes, features[image]))]
            )
        path.write_text(text.getvalue())
    return features


def test_a_tsv_with_captions_of_another_file(run: Run, tmp_path: Path) -> None:
    features = write_tsv(tmp_path / "a.tsv", range(5)) | write_tsv(tmp_path / "b.tsv", range(5, 8))
    captions = [{"image_id": image, "caption": f"caption {image}"} for image in range(7)]
    document = {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(7)], "annotations": captions}
    (tmp_path / "captions_train2017.json").write_text(json.dumps(document))
    output = run(
        "out", tmp_path / "a.tsv", tmp_path / "b.tsv", join=(tmp_path / "captions_train2017.json",), shard_size=3
    )
    found = samples(output)
    assert list(found) == list(map(str, range(8)))
    for image, expected in features.items():
        np.testing.assert_array_equal(found[str(image)].regions.features, expected)
        assert found[str(image)].meta.get("captions", []) == ([f"caption {image}"] if image < 7 else [])
    info = read_dataset(output)
    assert [source["format"] for source in info.converted[0]["sources"]] == ["bottom-up-tsv"] * 2
    assert len(info.fingerprint_fields["sources"]) == 2


def test_a_packed_file_is_unpacked_once_and_gives_the_same_shards(run: Run, tmp_path: Path) -> None:
    write_tsv(tmp_path / "a.tsv", range(5))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress((tmp_path / "a.tsv").read_bytes()))
    plain, packed = run("plain", tmp_path / "a.tsv"), run("packed", tmp_path / "a.tsv.gz")
    assert files(packed)["shards/000000.tar"] == files(plain)["shards/000000.tar"]
    assert not (packed / ".plan").exists()


def test_an_image_that_a_file_has_twice_and_one_that_is_broken(run: Run, tmp_path: Path) -> None:
    write_tsv(tmp_path / "a.tsv", range(5))
    lines = (tmp_path / "a.tsv").read_text().splitlines()
    (tmp_path / "twice.tsv").write_text("\n".join([*lines, lines[2]]) + "\n")
    with pytest.raises(ShardError, match="the image id '2' is there twice"):
        convert(ConvertSettings(sources=(tmp_path / "twice.tsv",), output=tmp_path / "out"))
    assert len(samples(run("once", tmp_path / "twice.tsv", deduplicate="id"))) == 5
    (tmp_path / "broken.tsv").write_text("\n".join([*lines[:3], lines[3][:2000], lines[4]]) + "\n")
    output = run("broken", tmp_path / "broken.tsv")
    assert list(samples(output)) == ["0", "1", "2", "4"]
    assert sum(read_dataset(output).totals.failures.values()) == 1


def test_boxes_cannot_be_chosen_by_scores_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tsv(tmp_path / "a.tsv", range(2))
    arguments = ["convert", str(tmp_path / "a.tsv"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--max-boxes", "2"]) == 2
    assert "--max-boxes: the source has no object_scores" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("no features\n")
    assert main(["convert", str(tmp_path / "notes.txt"), "--output", str(tmp_path / "out")]) == 1
    assert "notes.txt: its format is not recognised" in capsys.readouterr().err
    for option in ("--class-names", "--attribute-names", "--image-sizes"):
        assert main([*arguments, option, str(tmp_path / "none")]) == 2
        assert f"{option} {tmp_path / 'none'}: " in capsys.readouterr().err


def test_files_of_one_origin_can_be_appended(run: Run, tmp_path: Path) -> None:
    first, more = (tmp_path / name for name in ("a.tsv", "b.tsv"))
    features = write_tsv(first, range(5)) | write_tsv(more, range(5, 8))
    butd = ImportOptions(origin="BUTD ResNet-101, 36 boxes")
    output = run("out", first, importing=butd, shard_size=4)
    before = files(output)
    assert run("out", more, importing=butd, shard_size=4, append=True) == output
    found = samples(output)
    assert list(found) == [str(image) for image in features]
    for image, expected in features.items():
        np.testing.assert_array_equal(found[str(image)].regions.features, expected)
    after = files(output)
    assert all(after[name] == content for name, content in before.items() if name.startswith("shards/"))
    info = read_dataset(output)
    assert [source["origin"] for source in info.fingerprint_fields["sources"]] == ["BUTD ResNet-101, 36 boxes"]
    contents = [step["sources"][0]["content"] for step in info.converted]
    assert len(set(contents)) == 2
    both = run("both", first, more, importing=butd)
    assert read_dataset(both).fingerprint == info.fingerprint
    with pytest.raises(ShardError, match=r"the image id '.' is there twice: in the data set that is appended to"):
        convert(ConvertSettings(sources=(first, more), output=both, append=True, importing=butd))
    for options in (ImportOptions(), ImportOptions(origin="another"), ImportOptions(origin=butd.origin, top_classes=3)):
        settings = ConvertSettings(sources=(more,), output=both, append=True, importing=options)
        with pytest.raises(FingerprintError, match="has a different fingerprint from the sources") as caught:
            convert(settings)
        assert ("imported with the same --origin" in str(caught.value)) == (options.origin is None)


def test_the_content_of_a_file_is_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tsv"
    write_tsv(path, range(200))
    found = set()
    for row in (0, 1, 150):
        lines = path.read_text().splitlines()
        lines[row] = lines[row].replace("\t400\t", "\t401\t")
        path.write_text("\n".join(lines) + "\n")
        with open_published(path) as source:
            found.add(source.content)
    assert len(found) == 3
    (tmp_path / "scratch").mkdir()
    with open_published(path, options=ImportOptions(scratch=tmp_path / "scratch")) as source:
        assert source.content in found
    monkeypatch.setattr(content_hash, "_known", {})  # as another process finds it
    monkeypatch.setattr(content_hash, "_hash", lambda *_: pytest.fail("it was read again"))
    with open_published(path, options=ImportOptions(scratch=tmp_path / "scratch")) as source:
        assert source.content in found
