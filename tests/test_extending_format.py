"""docs/extending/format.md: its package outside the repository reads and writes a format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.cli import main
from vilbert.pipeline.doctor import check_entry_points
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, find_format, open_published
from vilbert.pipeline.rebuild.formats.registry import FORMATS
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample
from vilbert.plugins import PluginError, all_entry_points

from .extending_pages import install_page, vilbert
from .pipeline.shards.conftest import write_small_dataset


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of the page on sys.path."""
    folder = install_page("format.md", tmp_path / "packages")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        all_entry_points.cache_clear()
        yield folder
    all_entry_points.cache_clear()


def sample(number: int) -> Sample:
    draw = np.random.default_rng(number)
    regions = Regions(
        boxes=np.array([[1, 2, 3, 4]] * number, np.float32),
        features=draw.normal(size=(number, 5)).astype(np.float32),
        width=20,
        height=10,
    )
    return Sample(key=f"image{number}", regions=regions, meta={"image_id": f"image{number}", "captions": ["a caption"]})


def test_samples_are_written_and_read_back(tmp_path: Path, package: Path) -> None:
    path, samples = tmp_path / "features.jsonl", [sample(number) for number in range(1, 4)]
    exporter = find_format("toy").load_exporter()
    assert exporter is not None
    with exporter.create(path, None) as writer:  # type: ignore[arg-type]
        for one in samples:
            writer.add(one)
        writer.finish()
    assert detect_format(path) == "toy"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"toy": true, "id": "image9"}\nno json\n')
    with open_published(path) as source:
        *rows, without, broken = source.read(0, source.rows)
        assert source.description.format == "toy"
        assert "class probabilities" in source.description.missing
    for row, one in zip(rows, samples, strict=True):
        assert isinstance(row, Sample)
        assert row.meta == {**one.meta, "split": ""}
        np.testing.assert_array_equal(row.regions.features, one.regions.features)
    assert isinstance(without, FailureRow)
    assert (without.image_id, without.reason, without.detail) == ("image9", "broken_row", "has no features")
    assert isinstance(broken, FailureRow)


def test_an_unfinished_export_leaves_nothing(tmp_path: Path, package: Path) -> None:
    exporter = find_format("toy").load_exporter()
    assert exporter is not None
    with exporter.create(tmp_path / "a.jsonl", None) as writer:  # type: ignore[arg-type]
        writer.add(sample(1))
    assert not list(tmp_path.glob("*.jsonl*"))


def test_the_command_names_the_format(tmp_path: Path, package: Path) -> None:
    fields = {"toy": True, "id": "a", "width": 9, "height": 9, "boxes": [[0, 0, 1, 1]], "features": [[1.0, 2.0]]}
    (tmp_path / "features.jsonl").write_text(json.dumps(fields) + "\n")
    done = vilbert("inspect", "features.jsonl", packages=package, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("features.jsonl: toy\n  JSON Lines of a toy.\n")


def test_a_package_that_cannot_be_imported_stops_no_other_format(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("broken", "broken_format:SPEC"), ("wrong", "json:dumps")):
        information = package / f"{name}_format-0.1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-format\nVersion: 0.1\n")
        (information / "entry_points.txt").write_text(f"[vilbert.formats]\n{name} = {value}\n")
    (package / "broken_format.py").write_text("import package_that_is_not_installed\n")
    all_entry_points.cache_clear()
    (tmp_path / "a.txt").write_text("a text")
    assert detect_format(tmp_path / "a.txt") is None
    with pytest.raises(ShardError, match=r"give one of these: .*, toy$"):
        open_published(tmp_path / "a.txt")
    with pytest.raises(PluginError, match=r"format 'broken' of package broken-format 0\.1"):
        open_published(tmp_path / "a.txt", "broken")
    with pytest.raises(PluginError, match="format 'wrong' is a function, expected a FormatSpec"):
        open_published(tmp_path / "a.txt", "wrong")
    with pytest.raises(PluginError, match=r"no format 'tov'; did you mean toy\?"):
        open_published(tmp_path / "a.txt", "tov")
    found = {check.name: check for check in check_entry_points()}
    assert (found["toy"].ok, found["toy"].what) == (True, "format of toy-format 0.5")
    assert not found["broken"].ok


def test_a_data_set_is_exported_to_it(tmp_path: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_small_dataset(tmp_path).directory
    assert main(["export", str(directory), "--to", "toy", "--output", str(tmp_path / "out.jsonl")]) == 0
    assert "not in it: class probabilities" in capsys.readouterr().out
    with open_published(tmp_path / "out.jsonl") as source:
        assert source.rows == 7
        assert all(isinstance(row, Sample) for row in source.read(0, source.rows))


@pytest.mark.parametrize("name", list(FORMATS.built_in))
def test_the_importer_of_each_built_in_format_is_there(name: str, tmp_path: Path) -> None:
    importer = find_format(name).load_importer()
    if importer is not None:
        assert not importer.detect(tmp_path)
        assert not importer.detect(tmp_path / "absent")
        assert not importer.detect(Path("/dev/null"))
