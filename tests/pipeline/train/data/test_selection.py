"""`--selection`: training on a selection is training on a smaller data set, in an order that is a pure function."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vilbert
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.pretraining.data import open_data
from vilbert.pipeline.train.pretraining.settings import PretrainSettings

from ..tiny_runs import arguments, journal, two_sets

WHERE = "endswith(image_id, '1') or endswith(image_id, '3') or endswith(image_id, '6')"


def is_selected(row: int) -> bool:
    return row % 10 in (1, 3, 6)


def select(data: Path, where: str = WHERE) -> Path:
    path = data.parent / f"{data.name}.parquet"
    assert main(["select", str(data), "--where", where, "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """A folder with the data sets `a` and `b`, and a selection of each."""
    made = two_sets(tmp_path_factory.mktemp("selection"), make_dataset)
    for name in ("a", "b"):
        select(made / name)
    return made


def epoch(corpus: Corpus, number: int = 0, **options: Any) -> list[str | None]:
    order = Order(corpus.shard_sizes, **{"seed": 5, "window": 4, **options})
    return corpus.image_ids(order.at(np.arange(order.epoch_size) + number * order.epoch_size))


def names(rows: Sequence[int]) -> list[str]:
    return [f"photo.{row:04}" for row in rows]


@pytest.mark.parametrize("split", [None, "train", "val"])
def test_the_natural_order_is_that_of_the_data_set_filtered(folder: Path, split: str | None) -> None:
    whole = Corpus.open(folder / "a", split=split)
    some = pickle.loads(pickle.dumps(Corpus.open(folder / "a", split=split, selections=[folder / "a.parquet"])))
    assert epoch(some, shuffle=False) == [it for it in epoch(whole, shuffle=False) if it and is_selected(int(it[6:]))]
    for number in range(2):
        shuffled = epoch(some, number)
        assert sorted(map(str, shuffled)) == epoch(some, shuffle=False)
        assert shuffled == epoch(Corpus.open(folder / "a", split=split, selections=[folder / "a.parquet"]), number)


def test_two_data_sets_have_a_file_each_in_any_order(folder: Path) -> None:
    files = [folder / "b.parquet", folder / "a.parquet"]
    both = Corpus.open([folder / "a", folder / "b"], split=None, selections=files)
    rows_a, rows_b = (list(filter(is_selected, range(samples))) for samples in (21, 13))
    assert epoch(both, shuffle=False) == names([*rows_a, *rows_b])
    one = Corpus.open([folder / "a", folder / "b"], split=None, selections=files[:1])
    assert epoch(one, shuffle=False) == names([*range(21), *rows_b])
    assert "selection" not in one.fingerprints[0]
    assert [entry["samples"] for entry in both.fingerprints] == [len(rows_a), len(rows_b)]
    with pytest.raises(RefusedError, match=r"a\.parquet: belongs to another data set"):
        Corpus.open(folder / "b", split=None, selections=files)


def test_a_selection_without_a_sample_of_the_split_is_refused(folder: Path) -> None:
    path = select(folder / "b", "image_id == 'photo.0003'")
    with pytest.raises(RefusedError, match="no samples"):
        Corpus.open(folder / "b", split="val", selections=[path])
    select(folder / "b")


def test_held_out_samples_are_of_the_selection(folder: Path, tmp_path: Path) -> None:
    settings = PretrainSettings(
        data=(str(folder / "a"),), output=tmp_path / "run", split="all", eval_split="held-out", hold_out=0.3,
        selection=(folder / "a.parquet",), batch_size=2,
    )  # fmt: skip
    data = open_data(settings)
    assert data.held_out is not None
    trained, held_out = set(epoch(data.corpus)), set(epoch(data.held_out))
    assert trained | held_out == set(names(list(filter(is_selected, range(21)))))
    assert not trained & held_out
    assert held_out
    assert data.order.epoch_size == len(trained)


def ids(examples: Sequence[Example]) -> list[str]:
    """Return the image ids of a batch: a collate function that worker processes can import."""
    return [example.image_id for example in examples]


def test_the_order_for_other_loops_takes_a_selection(folder: Path) -> None:
    def take(**options: Any) -> list[list[str]]:
        loader = vilbert.order(
            folder / "a", batch_size=4, split=None, collate_fn=ids, **{"selection": folder / "a.parquet", **options}
        )
        return list(itertools.islice(loader, 3))

    whole = take()
    assert {name for batch in whole for name in batch} == set(names(list(filter(is_selected, range(21)))))
    parts = [take(rank=rank, world_size=2) for rank in range(2)]
    assert [[*first, *second] for first, second in zip(*parts, strict=True)] == whole
    with_selection, without = (
        vilbert.order(folder / "a", batch_size=4, split=None, selection=files) for files in ([folder / "a.parquet"], [])
    )
    with pytest.raises(RefusedError, match="data is"):
        without.load_state_dict(with_selection.state_dict())


def test_a_run_is_resumed_bitwise_and_only_with_the_same_selection(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_curves: None
) -> None:
    files = ["--selection", str(folder / "a.parquet"), str(folder / "b.parquet")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(arguments(folder, whole, *files)) == 0
    assert main([*arguments(folder, parts, *files), "--max-steps", "8"]) == 0
    described = json.loads((whole / "run.json").read_text())
    assert [len(entry["selection"]) for entry in described["data"]] == [64, 64]
    assert "selection" not in described["settings"]
    for step in sorted((parts / "checkpoints").glob("step-*"))[1:]:
        for path in sorted(step.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        step.rmdir()
    assert main([*arguments(folder, parts, *files), "--num-workers", "1"]) == 0
    assert (whole / "final/model.safetensors").read_bytes() == (parts / "final/model.safetensors").read_bytes()
    assert journal(whole)[-1] == journal(parts)[-1]
    capsys.readouterr()
    assert main(arguments(folder, parts, "--selection", str(folder / "a.parquet"))) == 2
    assert "data[1].selection" in capsys.readouterr().err
