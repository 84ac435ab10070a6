"""`vilbert evaluate TASK`: evaluate a fine-tuned model on a split and write metrics and the submission file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.evaluate.settings import (
    BatchedEvaluateSettings,
    EvaluateSettings,
    GivenRegionsEvaluateSettings,
    ItemEvaluateSettings,
    RankEvaluateSettings,
    ReasonEvaluateSettings,
)
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.tasks.batch import ItemBatch, ItemSource, make_item_batches
from vilbert.pipeline.tasks.join import Images, join
from vilbert.pipeline.tasks.known_answers import compare_answers, require_classes
from vilbert.pipeline.tasks.objective import TaskObjective
from vilbert.pipeline.tasks.objective import evaluate as answer_items
from vilbert.pipeline.tasks.registry import TaskFiles, find_task, imported, open_task, task_token
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.tasks.task_card import TASK_FILE, TaskCard, parse_card, read_task_card, require_card
from vilbert.pipeline.tasks.trained_folder import TrainedFolder, trained_folder
from vilbert.pipeline.tasks.trained_model import load_its_tokenizer, load_model
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.known_features import read_known_features
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.mixed_features import OF_THE_DETECTOR_ALONE, check_known_features
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.distributed import Group, own_device
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.run.disk import require_folder_of
from vilbert.pipeline.train.run.folder import read_run
from vilbert.untrusted.documents import read_json

logger = logging.getLogger(__name__)

AS_PUBLISHED: dict[str, Any] = {"max_words": 30, "max_regions": 100, "seed": 0}
"""Input settings of zero-shot retrieval with a model of another origin. Source: vlbert_tasks.yml of vilbert_beta."""


class Answered(NamedTuple):
    """The result of an evaluation."""

    figures: dict[str, float]
    """Metrics by name."""
    results: bytes
    """Content of the results file."""
    left_out: int
    """Number of items, or of images if these are evaluated as a whole, without a prediction."""


class Trained(NamedTuple):
    """A model that was trained on a task, on its device."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    card: TaskCard
    folder: Path
    device: torch.device

    @property
    def task_token(self) -> int | None:
        """Row of the task embedding, if the model has one."""
        return task_token(self.card.task) if self.model.config.task_specific_tokens else None


def evaluate(settings: EvaluateSettings) -> int:
    """Evaluate, write the results, print the metrics and return 0."""
    require_folder_of("--output", settings.output)
    trained = load_trained(settings)
    warn_of_training_data(settings)
    warn_of_other_boxes(settings, trained.card)
    files = TaskFiles(
        folder=settings.annotations,
        seed=trained.card.seed,
        names=trained.card.names,
        labels=trained.card.labels,
    )
    task = open_task(settings.task, files, settings.split, like=None)
    require_classes(task, trained.model.config, folder=trained.folder)
    if trained.card.labels:
        where, of = f"{settings.annotations}, {settings.split}", f"--checkpoint {settings.checkpoint}"
        compare_answers(task, trained.card.labels, where=where, of=of, learns=False)
    answer: Callable[[Any, Trained, Task], Answered] = answer_each
    if (evaluation := find_task(settings.task).evaluation) is not None:
        answer = imported(evaluation)
    figures, results, left_out = answer(settings, trained, task)
    figures = {**figures, "left_out": left_out}
    if left_out:
        logger.warning(
            "%s, %s: %d items have no prediction; a server may reject the file or count them as wrong; give --data for "
            "all items",
            settings.task, settings.split, left_out,
        )  # fmt: skip
    if settings.output is not None:
        write_atomic(settings.output, results)
        write_atomic(settings.output.with_suffix(".figures.json"), encode_json(figures, indent=2) + b"\n")
        logger.info("%s: predictions; the metrics are in its .figures.json", settings.output)
    if settings.json:
        print(encode_json(figures).decode())
    else:
        print(
            "\n".join(
                f"{name:32} {value:{'d' if isinstance(value, int) else '.4f'}}" for name, value in figures.items()
            )
        )
    return 0


def warn_of_training_data(settings: EvaluateSettings) -> None:
    """Warn if the model was trained on the split."""
    run = read_run(trained_folder(settings.checkpoint).run)
    trained_on = (run or {}).get("settings", {}).get("split")
    asked = settings.split.removesuffix("_all")
    if asked == str(trained_on).removesuffix("_all") or (trained_on == "trainval" and asked in ("train", "val")):
        other = "minval" if trained_on == "trainval" else "another"
        logger.warning("--split %s: the model was trained on %s; give %s", settings.split, trained_on, other)


def warn_of_other_boxes(settings: EvaluateSettings, card: TaskCard) -> None:
    """Warn if regions at given boxes were used in training but are not in evaluation, or the other way round."""
    if isinstance(settings, GivenRegionsEvaluateSettings) and card.given_boxes != bool(settings.given_data):
        how, remedy = ("with", "give --given-data") if card.given_boxes else ("without", "leave --given-data out")
        logger.warning("the model was trained %s regions at given boxes: %s, or it sees other images", how, remedy)


def load_trained(settings: EvaluateSettings) -> Trained:
    """Load a fine-tuned model; raise RefusedError if it is another kind of model or has another task."""
    folder = trained_folder(settings.checkpoint)
    device = own_device(settings.device)
    kind: type[ViLBertForPreTraining | ViLBertForTasks]
    if isinstance(settings, RankEvaluateSettings) and settings.zero_shot:
        kind, card = ViLBertForPreTraining, shown_in_pretraining(folder, settings.task)
    else:
        kind, card = ViLBertForTasks, read_task_card(folder.card, settings.task)
    model = load_model(kind, folder, device)
    tokenizer = load_its_tokenizer(folder, model.config)
    require_card(card, model.config, folder.card)
    return Trained(model, tokenizer, card, folder.model, device)


def shown_in_pretraining(folder: TrainedFolder, task: str) -> TaskCard:
    """Return the input settings of a pre-trained model, or the published ones if it has another origin.

    Raises:
        RefusedError: The model was fine-tuned.
    """
    fine_tuned = (folder.card / TASK_FILE).is_file() or _made_as(folder.model) == "ViLBertForTasks"
    if fine_tuned:
        raise RefusedError(
            f"--zero-shot: {folder.model} was fine-tuned, and its alignment head is not; leave --zero-shot out, or "
            "name a run of `vilbert pretrain` as --checkpoint"
        )
    run = read_run(folder.run) if folder.is_of_a_run else None
    chosen = AS_PUBLISHED if run is None else run.get("settings", {})
    if "max_tokens" in chosen:  # task.json has another name for it
        chosen = {**chosen, "max_words": chosen["max_tokens"]}
    try:
        return parse_card({name: chosen[name] for name in AS_PUBLISHED} | {"task": task, "labels": []})
    except (KeyError, ValueError) as error:
        raise RefusedError(f"{folder.run}: its run.json does not record how pairs were presented ({error})") from error


def _made_as(model: Path) -> str | None:
    """Return the class name in a folder's config.json; None if it has none."""
    try:
        return str(read_json(model / "config.json")["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def answer_each(settings: ItemEvaluateSettings, trained: Trained, task: Task) -> Answered:
    """Predict each item."""
    objective = TaskObjective(
        task=task,
        held_out=task,
        task_token=trained.task_token,
        segments=trained.model.config.type_vocab_size > 1,
        bfloat16=settings.precision == "bf16",
        seed=trained.card.seed,
    )
    group = Group(rank=0, world=1, device=trained.device)
    with closing(item_batches(settings, trained, task)) as made:
        found = answer_items(objective, task, trained.model, made, group)
    figures, results = found.figures(), task.results(found.answers)
    if isinstance(settings, ReasonEvaluateSettings) and settings.answers_from is not None:
        joint, submission = task.joint_results(settings.answers_from, found.answers)
        figures, results = {**figures, **joint}, submission or results
    return Answered(figures, results, len(task.items) - len(found.answers))


def item_batches(
    settings: BatchedEvaluateSettings, trained: Trained, task: Task
) -> Generator[list[ItemBatch], None, None]:
    """Yield batches of all items that have features, each item once."""
    card = trained.card
    given_data = given_data_of(settings)
    given = open_images(settings, trained, given_data) if given_data else None
    images = open_images(settings, trained, settings.data, also_in=given)
    what = f"{task.name}, {settings.split}"
    joined = join(task.items, task.images, images, what=what, most_missing=settings.max_missing_fraction, given=given)
    order = Order(joined.shard_sizes, seed=0, shuffle=False)
    images.corpus.keep_open(order.most_shards())
    source = ItemSource(
        task=task,
        joined=joined,
        order=order,
        images=images,
        given=given,
        tokenizer=trained.tokenizer,
        max_words=card.max_words,
        max_regions=card.max_regions,
        blind=settings.blind,
        seed=card.seed,
    )
    size = source.order.epoch_size
    share = Share(rank=0, world=1, accumulation=1, batch_size=settings.batch_size)
    make = partial(make_item_batches, source, share, limit=size)
    steps = range(-(-size // settings.batch_size))
    return batches(make, steps, num_workers=settings.num_workers, pin_memory=trained.device.type == "cuda")


def given_data_of(settings: EvaluateSettings) -> tuple[str, ...]:
    """Return the data sets of regions at given boxes; none for a task that shows no such regions in evaluation."""
    return settings.given_data if isinstance(settings, GivenRegionsEvaluateSettings) else ()


def open_images(
    settings: EvaluateSettings, trained: Trained, directories: tuple[str, ...], *, also_in: Images | None = None
) -> Images:
    """Open data sets by image id; also_in: the images at given boxes."""
    beside = settings.output.parent if settings.output is not None else trained_folder(settings.checkpoint).run
    corpus = Corpus.open(
        directories,
        split=None,
        on_corrupt=settings.on_corrupt,
        cache_dir=settings.cache or beside / "cache",
        cache_bytes=settings.cache_bytes,
        verified=VerifiedFiles() if settings.verify_shards else None,
        allow_mixed=settings.allow_mixed_features,
        features=settings.features,
    )
    check_known_features(
        trained.card.extractors or read_known_features(str(settings.checkpoint)),
        corpus.sources,
        model=f"--checkpoint {settings.checkpoint}",
        allow_mixed=settings.allow_mixed_features,
        # Regions at given boxes do not come from a box selection.
        apart_from=OF_THE_DETECTOR_ALONE if directories == given_data_of(settings) else (),
    )
    return Images(corpus, also_in=also_in)
