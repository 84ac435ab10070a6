"""The data of a run: training and evaluation samples, and the batches of each."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.hold_out import hold_out
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.mixed_features import refuse_mixed_features
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.verify_ahead import verified_files, verifying_ahead
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.share import share_of
from vilbert.pipeline.train.engine.step_graphs import uses_graphs
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.pretraining.settings import PretrainSettings

CAPTIONS_AT_A_TIME = 4096
AUTO, HELD_OUT = "auto", "held-out"


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Opened data sets and their orders."""

    corpus: Corpus
    order: Order
    held_out: Corpus | None
    """None if there is no evaluation."""
    held_out_order: Order | None
    splits: dict[str, Any]
    """Resolved split settings for these data; part of the run's identity."""

    @property
    def num_classes(self) -> int:
        """Number of classes of a soft label, including the background."""
        return len(self.corpus.class_names)


def open_data(settings: PretrainSettings, group: Group | None = None) -> TrainingData:
    """Open the data sets of a run; raise RefusedError if they are incompatible.

    Args:
        settings: The settings of the run.
        group: The processes of the run, all of which open the data; None for a single process that writes no file.
    """
    corpus = _open(settings, settings.data, settings.split, settings.selection)
    splits: dict[str, Any] = {"split": named_split(corpus, settings.split)}
    splits["eval_split"] = eval_split = choose_eval_split(corpus, settings)
    held_out = None
    if eval_split == HELD_OUT:
        share, seed = settings.hold_out, settings.hold_out_seed
        splits |= {"hold_out": share, "hold_out_seed": seed}
        corpus, held_out = hold_out(corpus, share=share, seed=seed, run=settings.output, group=group)
    elif eval_split != "none":
        of_training = () if settings.eval_data else settings.selection
        held_out = _open(settings, settings.eval_data or settings.data, eval_split, of_training)
    order = Order(corpus.shard_sizes, seed=settings.seed, weights=settings.weights, window=settings.window)
    if held_out is not None:
        for name in ("feature_dim", "class_names"):
            if getattr(held_out, name) != getattr(corpus, name):
                raise RefusedError(
                    f"--eval-data: has another {name} than the training data; extract both with the same settings"
                )
        if not settings.allow_mixed_features:
            refuse_mixed_features((*corpus.sources, *held_out.sources))
    held_out_order = Order(held_out.shard_sizes, seed=settings.seed, shuffle=False) if held_out else None
    for opened, its_order in ((corpus, order), (held_out, held_out_order)):
        if opened is not None and its_order is not None:
            opened.keep_open(its_order.most_shards())
    return TrainingData(corpus=corpus, order=order, held_out=held_out, held_out_order=held_out_order, splits=splits)


def named_split(corpus: Corpus, split: str) -> str:
    """Return the training split; `auto` becomes the common split of all data sets, if there is one."""
    splits = {source.split for source in corpus.sources}
    if split != AUTO or len(splits) > 1:
        return split
    return {"": "all"}.get(name := splits.pop() or "", name)


def choose_eval_split(corpus: Corpus, settings: PretrainSettings) -> str:
    """Return the evaluation split; `auto` becomes val if the data have it, else held-out samples."""
    if settings.eval_split != AUTO or settings.eval_data:
        return "val" if settings.eval_split == AUTO else settings.eval_split
    return "val" if any(source.splits.get("val") for source in corpus.sources) else HELD_OUT


def _open(settings: PretrainSettings, directories: tuple[str, ...], split: str, selections: tuple[Path, ...]) -> Corpus:
    return Corpus.open(
        directories,
        split=None if split == "all" else split,
        on_corrupt=settings.on_corrupt,
        cache_dir=settings.cache or settings.output / "cache",
        cache_bytes=settings.cache_bytes,
        verified=verified_files(settings),
        allow_mixed=settings.allow_mixed_features,
        features=settings.features,
        class_targets=settings.class_targets,
        selections=selections,
        weighted=True,
    )


def all_captions(corpus: Corpus) -> Iterator[str]:
    """Yield every caption of the samples used, in their natural order."""
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    for start in range(0, order.epoch_size, CAPTIONS_AT_A_TIME):
        places = order.at(np.arange(start, min(start + CAPTIONS_AT_A_TIME, order.epoch_size)))
        for captions in corpus.captions(places, verify=False):
            yield from captions or ()


def train_batches(
    settings: PretrainSettings, data: TrainingData, tokenizer: PreTrainedTokenizerBase, group: Group, steps: range
) -> Generator[list[Batch], None, None]:
    """Yield this rank's micro-batches of each step's global batch."""
    on_gpu = group.device.type == "cuda"
    make = partial(
        make_batches,
        data.corpus,
        data.order,
        tokenizer,
        settings.items,
        share_of(settings, group),
        seed=settings.seed,
        with_positions=on_gpu,
        in_buckets=uses_graphs(settings, group),
    )
    made = batches(make, steps, num_workers=settings.num_workers, pin_memory=on_gpu)
    return verifying_ahead(data.corpus, data.order, made, steps, batch_size=settings.batch_size)


def eval_batches(
    settings: PretrainSettings, data: TrainingData, tokenizer: PreTrainedTokenizerBase, group: Group
) -> Generator[list[Batch], None, None]:
    """Yield this rank's micro-batches of the held-out samples, each sample once over all ranks."""
    assert data.held_out is not None
    assert data.held_out_order is not None
    size = data.held_out_order.epoch_size
    make = partial(
        make_batches,
        data.held_out,
        data.held_out_order,
        tokenizer,
        settings.items,
        share_of(settings, group),
        seed=settings.seed,
        limit=size,
    )
    steps = range(-(-size // settings.batch_size))
    return batches(make, steps, num_workers=settings.num_workers, pin_memory=group.device.type == "cuda")
