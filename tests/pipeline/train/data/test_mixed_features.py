"""Features of two detectors, and the same data set twice, are refused; a model knows the features it was trained on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.dataset import fingerprint_digest, read_dataset, write_dataset
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.known_features import read_known_features, write_known_features
from vilbert.pipeline.train.data.mixed_features import check_known_features, differences
from vilbert.pipeline.train.data.selection import Source, read_source

MakeDataset = Callable[..., Path]
DETECTOR = {"extractor": "torchvision", "weights_sha256": "a" * 64, "precision": "fp32", "device": "cuda"}
SELECTION = {"boxes": "36", "nms": 0.3}


def make(make_dataset: MakeDataset, folder: Path, *, seed: int, **extractor: Any) -> Path:
    """Write a data set of other images for each seed, with these facts in its fingerprint."""
    make_dataset(folder, samples=4, shard_size=2, seed=seed)
    info = read_dataset(folder)
    fields = {**info.fingerprint_fields, "extractor": {**DETECTOR, "selection": SELECTION, **extractor}}
    digest = fingerprint_digest(fields)
    made = folder.with_name(f"{folder.name}-made")
    # Its records name the fingerprint: write them as they would have been.
    return _sealed(folder, made, info, fields, digest)


def _sealed(folder: Path, made: Path, info: Any, fields: dict[str, Any], digest: str) -> Path:
    from vilbert.pipeline.shards.record import read_records, records_digest

    shutil.copytree(folder, made)
    for shard, record in read_records(made).items():
        (made / "shards" / f"{shard:06}.json").write_bytes(replace(record, fingerprint=digest).to_json())
    records = read_records(made).values()
    write_dataset(
        made, replace(info, fingerprint=digest, fingerprint_fields=fields, records_sha256=records_digest(records))
    )
    return made


def open_corpus(*folders: Path, **options: Any) -> Corpus:
    return Corpus.open([str(folder) for folder in folders], split=None, **options)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"weights_sha256": "b" * 64}, "weights_sha256"),
        ({"extractor": "detectron2"}, r"extractor is 'torchvision' \(a-made\) and 'detectron2' \(b-made\)"),
        ({"precision": "bf16"}, "precision"),
        ({"selection": {"boxes": "10-100", "nms": 0.3}}, r"selection\.boxes is '36'"),
        ({"feature_layer": "fc6"}, "feature_layer is None"),
    ],
)
def test_data_sets_that_were_extracted_in_different_ways_are_refused(
    tmp_path: Path, make_dataset: MakeDataset, facts: dict[str, Any], named: str
) -> None:
    first, second = make(make_dataset, tmp_path / "a", seed=0), make(make_dataset, tmp_path / "b", seed=1, **facts)
    with pytest.raises(RefusedError, match=rf"{named}.*--allow-mixed-features"):
        open_corpus(first, second)
    assert len(open_corpus(first, second, allow_mixed=True).sources) == 2


def test_another_device_and_kept_images_are_the_same_features(tmp_path: Path, make_dataset: MakeDataset) -> None:
    first = make(make_dataset, tmp_path / "a", seed=0)
    second = make(make_dataset, tmp_path / "b", seed=1, device="cpu")
    assert len(open_corpus(first, second).sources) == 2


def link(folder: Path) -> Path:
    linked = folder.with_name("linked")
    linked.symlink_to(folder)
    return linked


def copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("copied")))


@pytest.mark.parametrize(
    ("again", "how"),
    [(lambda folder: folder, "are the same data set"), (link, "are the same data set"), (copied, "are copies")],
)
def test_the_same_data_set_twice_is_refused(
    tmp_path: Path, make_dataset: MakeDataset, again: Callable[[Path], Path], how: str
) -> None:
    folder = make(make_dataset, tmp_path / "a", seed=0)
    with pytest.raises(RefusedError, match=how) as raised:
        open_corpus(folder, again(folder))
    assert "--weights" not in str(raised.value)  # which `vilbert pretrain` alone has


def test_the_same_manifest_in_other_shards_or_another_storage_is_refused(
    tmp_path: Path, make_dataset: MakeDataset
) -> None:
    first = make_dataset(tmp_path / "a", samples=6, shard_size=2)
    second = make_dataset(tmp_path / "b", samples=6, shard_size=3, storage="lmdb")
    with pytest.raises(RefusedError, match="the same manifest with the same detector"):
        open_corpus(first, second)


def test_a_shard_of_one_data_set_in_another_is_named(tmp_path: Path, make_dataset: MakeDataset) -> None:
    first = make_dataset(tmp_path / "a", samples=4, shard_size=2)
    second = make_dataset(tmp_path / "b", samples=2, shard_size=2)
    with pytest.raises(RefusedError, match="shard 0 of the one is shard 0 of the other"):
        open_corpus(first, second)


def test_pretrain_names_the_data_sets_and_the_option(
    tmp_path: Path, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make(make_dataset, tmp_path / "a", seed=0)
    second = make(make_dataset, tmp_path / "b", seed=1, weights_sha256="b" * 64)
    command = ["--output", str(tmp_path / "run"), "--eval-split", "none", "--device", "cpu"]
    assert main(["pretrain", str(first), str(second), *command]) == 2
    assert "--allow-mixed-features" in capsys.readouterr().err
    assert main(["pretrain", str(first), str(first), *command]) == 2
    said = capsys.readouterr().err
    assert "are the same data set" in said
    assert "--weights 2" in said


@pytest.mark.parametrize("where", ["run", "run/final", "run/checkpoints/step-00000001"])
def test_pretraining_from_a_model_of_another_detector_is_refused(
    tmp_path: Path, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    data = make(make_dataset, tmp_path / "a", seed=0)
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    write_known_features(run / "final", [known(weights_sha256="b" * 64)])
    (run / "run.json").write_text(json.dumps({"extractors": [known(weights_sha256="b" * 64)]}))
    command = ["pretrain", str(data), "--output", str(tmp_path / "new"), "--eval-split", "none", "--device", "cpu"]
    command += ["--init-from", str(run if where == "run" else tmp_path / where), "--tokenizer", str(tmp_path / "none")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "--init-from" in said
    assert "weights_sha256" in said
    assert main([*command, "--allow-mixed-features"]) == 2  # the next problem: there is no tokenizer
    assert "weights_sha256" not in capsys.readouterr().err


def test_pretraining_from_a_text_model_inside_a_run_is_not_compared(
    tmp_path: Path, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(make_dataset, tmp_path / "a", seed=0)
    bert = tmp_path / "run" / "bert"
    bert.mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"extractors": [known(weights_sha256="b" * 64)]}))
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    command = ["pretrain", str(data), "--output", str(tmp_path / "new"), "--eval-split", "none", "--device", "cpu"]
    assert main([*command, "--init-from", str(bert), "--tokenizer", str(tmp_path / "none")]) == 2
    assert "weights_sha256" not in capsys.readouterr().err
    (bert / "config.json").write_text("{")
    assert main([*command, "--init-from", str(bert), "--tokenizer", str(tmp_path / "none")]) == 2
    assert f"--init-from {bert}: not valid JSON" in capsys.readouterr().err


def source_of(make_dataset: MakeDataset, folder: Path, **facts: Any) -> Source:
    return read_source(str(make(make_dataset, folder, seed=0, **facts)), split=None, cache=None)


def known(**facts: Any) -> dict[str, Any]:
    return {**DETECTOR, "selection": SELECTION, **facts}


def test_a_model_of_another_detector_is_refused_or_warned_of(
    tmp_path: Path, make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(make_dataset, tmp_path / "a")
    for ways in ([], [known()], [known(device="cpu")], [known(weights_sha256="b"), known()]):
        check_known_features(ways, [source], model="the model", allow_mixed=False)
    assert not caplog.records
    with pytest.raises(RefusedError, match=r"the model was trained .*weights_sha256.*--allow-mixed-features"):
        check_known_features([known(weights_sha256="b")], [source], model="the model", allow_mixed=False)
    with caplog.at_level(logging.WARNING):
        check_known_features([known(weights_sha256="b")], [source], model="the model", allow_mixed=True)
        check_known_features([known(selection={"boxes": "10"})], [source], model="the model", allow_mixed=False)
        assert len(caplog.records) == 2
        apart = {"model": "the model", "allow_mixed": False, "apart_from": ("selection",)}
        check_known_features([known(selection={"boxes": "10"})], [source], **apart)
    assert len(caplog.records) == 2


def test_what_a_model_knows_is_found_beside_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    final, step = run / "final", run / "checkpoints" / "step-00000001"
    final.mkdir(parents=True)
    step.mkdir(parents=True)
    assert read_known_features(str(run)) == read_known_features("bert-base-uncased") == ()
    write_known_features(final, [known()])
    assert read_known_features(str(run)) == read_known_features(str(final)) == (known(),)
    (run / "run.json").write_text(json.dumps({"extractors": [known(precision="bf16")]}))
    assert read_known_features(str(step)) == (known(precision="bf16"),)
    (final / "features.json").write_text("[" * 100_000)
    (final / "task.json").write_text(json.dumps({"tasks": [{"extractors": [known()]}, {"extractors": [known()]}]}))
    assert read_known_features(str(final)) == (known(),)
    (final / "task.json").write_text(json.dumps({"extractors": 5, "tasks": [7]}))
    assert read_known_features(str(final)) == (known(precision="bf16"),)


def test_differences_name_inner_facts() -> None:
    found = list(
        differences(known(), known(selection={"boxes": "36", "nms": 0.5}, device="cpu"), apart_from=("device",))
    )
    assert found == [("selection.nms", 0.3, 0.5)]
