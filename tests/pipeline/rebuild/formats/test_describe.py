"""`vilbert inspect` names the format of published features, what they hold and what they lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.inspect import InspectSettings, inspect

from .importers.published import pictures, tsv, uniter_value, vilbert_lmdb_values, write_lmdb


def test_inspect_names_the_format_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(tsv(pictures(), 10)[:-100])
    assert inspect(InspectSettings(target=str(path))) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: bottom-up-tsv\n")
    assert "  rows          4\n" in text
    assert "  lacks         class probabilities, class names, attribute names, captions\n" in text
    assert "  features          float32  [N, 8]\n" in text
    assert "  0  COCO_train2014_000000000001: 3 boxes, 64 x 48 pixels\n" in text


def test_inspect_prints_json_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {
        f"{number}.npz".encode(): uniter_value(picture, compressed=True) for number, picture in enumerate(pictures())
    }
    write_lmdb(tmp_path / "all", values)
    assert inspect(InspectSettings(target=str(tmp_path / "all"), json=True)) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "uniter-lmdb"
    assert "--image-sizes" in document["problem"]


def test_a_picture_needs_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(tsv(pictures(), 10))
    assert inspect(InspectSettings(target=str(path), image=tmp_path / "a.png")) == 2
    assert f"convert {path} first" in capsys.readouterr().err


def test_other_files_are_no_data_set_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a text")
    assert main(["inspect", str(tmp_path / "a.txt")]) != 0
    assert "is a file; expected a data set" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut short", "another byte order", "empty"])
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_damage_of_a_file_is_named_where_it_hides_the_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, damage: str
) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(pictures(), "arrays"))
    data = bytearray((path / "data.mdb").read_bytes())
    data[16:20] = data[16:20][::-1] if damage == "another byte order" else data[16:20]
    size = {"cut short": 2 * 4096 + 100, "empty": 0}.get(damage, len(data))
    (path / "data.mdb").write_bytes(data[:size])
    arguments = [command, str(path), *(["--output", str(tmp_path / "out")] if command == "convert" else [])]
    assert main(arguments) == 1
    said = {"cut short": "damaged LMDB", "another byte order": "LMDB of another byte order", "empty": "is empty"}
    assert said[damage] in capsys.readouterr().err
