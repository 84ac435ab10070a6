"""Samples held out of training by the hash of their ids, where the data name no split to evaluate on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.train.tiny_runs import MODEL, pretrain_arguments
from vilbert.manifests.hold_out import HoldOut, hold_out_key
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data import hold_out as hold_out_module
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.hold_out import HELD_OUT_FILE
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.pretraining.data import TrainingData, open_data
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.run.folder import read_run


def settings_of(*folders: Path, **options: Any) -> PretrainSettings:
    output = options.pop("output", folders[0].parent / "run")
    return PretrainSettings(data=tuple(map(str, folders)), output=output, tokenizer="new", **options)


def unnamed(row: int) -> str:
    return ""


def ids(corpus: Corpus | None) -> list[str]:
    assert corpus is not None
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    return [str(image_id) for image_id in corpus.image_ids(order.at(np.arange(order.epoch_size)))]


def parts(data: TrainingData) -> tuple[list[str], list[str]]:
    return ids(data.corpus), ids(data.held_out)


def lowest(image_ids: list[str], number: int, seed: int = 0) -> set[str]:
    return set(sorted(image_ids, key=lambda image_id: hold_out_key(image_id, seed))[:number])


@pytest.mark.parametrize("split", ["", "train"])
@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_without_a_split_to_evaluate_on_a_tenth_of_few_samples_is_held_out(
    tmp_path: Path, make_dataset: Callable[..., Path], split: str, storage: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = make_dataset(tmp_path / "a", samples=40, shard_size=7, splits=lambda row: split, storage=storage)
    everything = ids(Corpus.open([str(folder)], split=None))
    data = open_data(settings_of(folder))
    train, held = parts(data)
    assert set(held) == lowest(everything, 4)
    assert sorted(train + held) == sorted(everything)
    assert data.splits == {"split": split or "all", "eval_split": "held-out", "hold_out": 0.01, "hold_out_seed": 0}
    assert "4 of 40 samples are held out" in caplog.text


def test_a_split_that_is_there_is_used_and_the_identity_is_as_before(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    folder = make_dataset(
        tmp_path / "a", samples=12, shard_size=3, splits=lambda row: "val" if row % 4 == 3 else "train"
    )
    data = open_data(settings_of(folder))
    assert tuple(map(len, parts(data))) == (9, 3)
    assert data.splits == {"split": "train", "eval_split": "val"}
    data = open_data(settings_of(folder, eval_split="held-out", hold_out=0.3))
    assert tuple(map(len, parts(data))) == (6, 3)


def test_data_sets_with_and_without_splits_train_together(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    folders = [
        make_dataset(tmp_path / "a", samples=8, shard_size=3, splits=lambda row: "val" if row % 4 == 3 else "train"),
        make_dataset(tmp_path / "b", samples=5, shard_size=3, splits=unnamed, seed=1),
    ]
    data = open_data(settings_of(*folders))
    assert tuple(map(len, parts(data))) == (11, 2)
    assert data.splits["split"] == "auto"


def test_many_samples_are_held_out_by_share(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_out_module, "FEWEST", 5)
    folder = make_dataset(tmp_path / "a", samples=60, shard_size=7, splits=unnamed)
    train, held = parts(open_data(settings_of(folder, hold_out=0.2, hold_out_seed=3)))
    choice = HoldOut.of_share(0.2, 3)
    assert held
    assert all(map(choice.takes, held))
    assert not any(map(choice.takes, train))


@pytest.mark.parametrize(
    "damage",
    [
        *(
            {"counts": counts}
            for counts in (3, [], [[1, 0]], [[1 << 70]], [[-1, 0, 0, 0, 0, 0]], [[99, 0, 0, 0, 0, 0]])
        ),
        *({"limit": limit} for limit in (None, 1e999)),
    ],
)
def test_numbers_that_are_damaged_are_counted_again(
    tmp_path: Path, make_dataset: Callable[..., Path], damage: dict[str, Any]
) -> None:
    import torch

    folder = make_dataset(tmp_path / "a", samples=40, shard_size=7, splits=unnamed)
    settings = settings_of(folder)
    settings.output.mkdir()
    group = Group(rank=0, world=1, device=torch.device("cpu"))
    expected = parts(open_data(settings, group))
    path = settings.output / HELD_OUT_FILE
    whole = json.loads(path.read_text())
    assert len(whole["counts"][0]) == 6
    path.write_text(json.dumps({**whole, **damage}))
    assert parts(open_data(settings, group)) == expected
    assert json.loads(path.read_text()) == whole


def test_the_same_image_is_held_out_of_every_data_set(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    folders = [
        make_dataset(tmp_path / name, samples=30, shard_size=size, splits=unnamed, seed=seed)
        for seed, (name, size) in enumerate((("a", 7), ("b", 4)))
    ]
    train, held = parts(open_data(settings_of(*folders)))
    assert not set(train) & set(held)
    assert all(held.count(image_id) == 2 for image_id in held)


def test_the_first_process_counts_once_for_all_and_for_restarts(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder = make_dataset(tmp_path / "a", samples=40, shard_size=7, splits=unnamed)
    settings = settings_of(folder)
    settings.output.mkdir()
    group = Group(rank=0, world=1, device=torch.device("cpu"))
    expected = parts(open_data(settings, group))
    assert (settings.output / HELD_OUT_FILE).is_file()

    def count(*_: Any, **__: Any) -> Any:
        raise AssertionError("the ids are read again")

    monkeypatch.setattr(hold_out_module, "count_held_out", count)
    assert parts(open_data(settings, group)) == expected
    with pytest.raises(AssertionError):
        open_data(settings_of(folder, hold_out_seed=1), group)
    (settings.output / HELD_OUT_FILE).write_text("[" * 5000)
    with pytest.raises(AssertionError):
        open_data(settings, group)


def test_too_few_samples_are_refused(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    with pytest.raises(RefusedError, match=r"too few.*--eval-split none"):
        open_data(settings_of(make_dataset(tmp_path / "a", samples=1, shard_size=3, splits=unnamed)))


@pytest.mark.parametrize("options", [{"split": "test"}, {"eval_split": "test"}])
def test_a_split_that_is_not_there_is_refused_with_what_to_do(
    tmp_path: Path, make_dataset: Callable[..., Path], options: dict[str, str]
) -> None:
    folder = make_dataset(tmp_path / "a", samples=4, shard_size=3)
    with pytest.raises(RefusedError, match=r"'train' .4 samples.*--split all.*--eval-split none"):
        open_data(settings_of(folder, **options))


def test_a_run_says_what_it_held_out_and_resumes(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(tmp_path / "a", samples=24, shard_size=5, splits=unnamed)
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 2, "batch_size": 4, "eval_every": 2, "save_every": 1}
    command = pretrain_arguments([folder], tmp_path / "run", tmp_path / "model.json", **sizes)
    assert main(command) == 0
    run = read_run(tmp_path / "run")
    assert run is not None
    assert (run["data"][0]["samples"], run["eval_data"][0]["samples"]) == (22, 2)
    assert (run["settings"]["eval_split"], run["settings"]["hold_out_seed"]) == ("held-out", 0)
    card = (tmp_path / "run/final/README.md").read_text()
    assert "2 samples, chosen by the hash of their image ids (seed 0), were held out of training" in card
    assert main(command) == 0
    assert main([*command, "--hold-out-seed", "1"]) == 2
