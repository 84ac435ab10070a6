"""The training loop: optimizer steps over the batches in order, with metrics, evaluations and checkpoints.

A step is a function of the settings, the data and the step's number, so a killed run that is resumed from its newest
complete checkpoint gives the same result as an undisturbed one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.optim import AdamW
from transformers import PreTrainedModel

from vilbert.pipeline.errors import NonFiniteError
from vilbert.pipeline.train.engine.bad_inputs import Locate, explain_inputs, gathered, not_finite_images
from vilbert.pipeline.train.engine.copy_ahead import Ahead, Copied, copied_ahead, wait_for
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.finite import StepResult, Unchecked
from vilbert.pipeline.train.engine.interruption import (
    InterruptedEvaluationError,
    interruption,
    is_interrupted,
    until_interrupted,
)
from vilbert.pipeline.train.engine.objective import Evaluation, MicroBatch, Objective
from vilbert.pipeline.train.engine.optimizer import clip_gradients, level_counts, set_step
from vilbert.pipeline.train.engine.profiling import profiled
from vilbert.pipeline.train.engine.schedule import factor_at
from vilbert.pipeline.train.engine.steering import Steering
from vilbert.pipeline.train.engine.step import Losses, backward
from vilbert.pipeline.train.engine.step_graphs import StepGraphs
from vilbert.pipeline.train.engine.throughput import Throughput, peak_tflops
from vilbert.pipeline.train.engine.working_weights import WorkingWeights
from vilbert.pipeline.train.run.checkpoint_writer import CheckpointWriter
from vilbert.pipeline.train.run.checkpoints import optimizer_tensors, restore_optimizer
from vilbert.pipeline.train.run.journal import Journal
from vilbert.pipeline.train.run.progress import TrainProgress
from vilbert.pipeline.train.run.settings import RunSettings

logger = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 20
IDS_IN_A_MESSAGE = 16


@dataclass(kw_only=True)
class Training:
    """A run under way in this process: what a checkpoint holds, and what it takes to make a step."""

    settings: RunSettings
    group: Group
    model: PreTrainedModel
    """Not wrapped: what is saved and evaluated."""
    wrapped: nn.Module
    """What goes forward: compiled, and under DistributedDataParallel where there are several processes."""
    optimizer: AdamW
    objective: Objective
    """What is learnt."""
    total_steps: int
    """Of the run."""
    train_batches: Callable[[range], Generator[list[Any], None, None]]
    """Return this rank's parts of each step's global batch; closing them ends what reads ahead."""
    eval_batches: Callable[[], Generator[list[Any], None, None]] | None
    """Return this rank's parts of the held-out samples; None without held-out samples."""
    description: dict[str, Any]
    """Content of run.json, kept in each checkpoint too."""
    locate: Locate | None = None
    """Find the samples of a step, to name those that are damaged."""
    epoch_size: int | None = None
    """Samples of one epoch; None where tasks take turns, each with epochs of its own."""
    steering: Steering | None = None
    """What evaluations change of the steps that follow; None where batches are a function of the step alone."""
    working: WorkingWeights | None = None
    """The weights in bfloat16 that a step on a GPU reads; None where it reads the parameters."""
    graphs: StepGraphs | None = None
    """Recorded passes; None where a step launches its kernels one by one."""
    step: int = 0
    """Steps done."""
    unread: int | Tensor = 0
    """Rows that could not be read so far; on the model's device, and read from there where it is written down."""
    skipped_steps: int = 0
    """Steps left out so far, their loss or gradient being no number."""
    skipped_in_a_row: int = 0
    unchecked: Unchecked = field(default_factory=Unchecked)
    """Steps of which a GPU has not been asked whether they are finite."""
    best: dict[str, float] = field(default_factory=dict)
    """Step of the best evaluation so far, and its `Objective.badness`."""
    evaluation_due: bool = False
    """Whether a signal ended the evaluation of the last step; it is done when the run is resumed."""
    evaluation: Evaluation | None = None
    """What the last evaluation in this process counted."""

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.settings.output

    def samples(self, step: int) -> int:
        """Return the samples of the first `step` steps, over all ranks."""
        return step * self.settings.batch_size if self.steering is None else self.steering.samples(step)


def model_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the parameters by name, a tied one once."""
    return {name: value for name, value in model.state_dict().items() if name not in model._tied_weights_keys}


def save(training: Training, writer: CheckpointWriter, *, waits: bool) -> None:
    """Write a checkpoint of the step just done and delete those no longer wanted.

    waits: whether all processes wait until it is whole, as before the run ends.
    """
    if training.group.first:
        best = training.best.get("step")
        writer.save(
            training.step,
            model=model_tensors(training.model),
            optimizer=optimizer_tensors(training.model, training.optimizer),
            info={
                "step": training.step,
                "samples": training.samples(training.step),
                "unread": int(training.unread),
                "skipped_steps": training.skipped_steps,
                "skipped_in_a_row": training.skipped_in_a_row,
                "best": dict(training.best),
                **({} if training.steering is None else {"steering": training.steering.state()}),
                **({"evaluation_due": True} if training.evaluation_due else {}),
                "run": training.description,
            },
            best=None if best is None else int(best),
        )
    if waits:
        writer.wait()
        training.group.wait()


def restore(training: Training, info: dict[str, Any], model: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
    """Put a checkpoint's content back, on whatever device the model is."""
    tied = {name: model[source] for name, source in training.model._tied_weights_keys.items()}
    training.model.load_state_dict({**model, **tied})
    restore_optimizer(training.model, training.optimizer, optimizer)
    training.step = info["step"]
    training.unread, training.skipped_steps = info["unread"], info["skipped_steps"]
    training.skipped_in_a_row, training.best = info["skipped_in_a_row"], info["best"]
    training.evaluation_due = info.get("evaluation_due", False)
    if training.steering is not None:
        training.steering.restore(info["steering"])


def run_steps(training: Training, journal: Journal | None, progress: TrainProgress | None) -> bool:
    """Train from the current step to the last one.

    After a signal, the current step is finished and a checkpoint is written. An evaluation that is due or running then
    is repeated by the resumed run.

    Args:
        training: State of the run; updated in place.
        journal: Receives metrics; None on all ranks but the first.
        progress: Receives progress; None on all ranks but the first.

    Returns:
        False if a signal ended the run before its last step.
    """
    settings, group = training.settings, training.group
    clock = Throughput(
        training.samples(training.step),
        config=training.model.config,
        device=group.device,
        world=group.world,
        peak=settings.peak_tflops or peak_tflops(group.device, settings.precision),
    )
    with (
        interruption() as interrupted,
        _Batches(training) as batches,
        profiled(training.run, settings.profile, rank=group.rank, device=group.device) as end_step,
        CheckpointWriter(training.run, keep=settings.keep, is_async=settings.async_checkpoint) as writer,
    ):
        was_interrupted = training.evaluation_due
        if was_interrupted:
            with clock.paused():
                changed = held_out(training, journal, saving=True, interrupted=interrupted)
                if training.evaluation_due:
                    return False
                save(training, writer, waits=False)
            if changed:
                batches.restart()
        while training.step < training.total_steps:
            parts = clock.fetch(batches)
            losses, norm = train_step(training, parts, batches.on_gpu)
            end_step()
            writer.check()
            training.step += 1
            due = _due(training, interrupted)
            if due.reading or due.evaluating or due.saving:
                require_finite(training)
            if journal is not None and due.logging:
                lap = clock.lap(training.samples(training.step))
                journal.write("train", training.step, {**train_figures(training, losses, norm), **lap})
            if progress is not None:
                progress.show(training.step, float(losses.means.sum()) if due.reading else None, clock.waiting)
            with clock.paused():
                begun = time.perf_counter()
                changed = due.evaluating and held_out(training, journal, saving=due.saving, interrupted=interrupted)
                evaluated = time.perf_counter()
                if due.saving or training.evaluation_due:
                    save(training, writer, waits=due.last or due.stopping or training.evaluation_due)
            if progress is not None:
                progress.note(
                    evaluation=evaluated - begun if due.evaluating else None,
                    checkpoint=time.perf_counter() - evaluated if due.saving else None,
                )
            if due.stopping or training.evaluation_due:
                return False
            if changed:
                batches.restart()
    return True


class _Due(NamedTuple):
    """What is due after a step."""

    logging: bool
    """Write metrics."""
    reading: bool
    """Read values from the device. On a GPU this synchronises, so it is done only where metrics are written."""
    evaluating: bool
    """Evaluate the held-out samples."""
    saving: bool
    """Write a checkpoint."""
    stopping: bool
    """End the run before its last step, after a signal."""
    last: bool
    """End the run: this was its last step."""


def _due(training: Training, interrupted: threading.Event) -> _Due:
    """Return what is due after the step just done. Several ranks agree on stopping where they read from the device."""
    settings, group, step = training.settings, training.group, training.step
    last = step == training.total_steps
    logging_due = step % settings.log_every == 0 or last
    reading = logging_due or group.device.type == "cpu"
    stopping = (reading or group.world == 1) and is_interrupted(interrupted, group)
    return _Due(
        logging=logging_due,
        reading=reading,
        evaluating=step % settings.eval_every == 0 or last,
        saving=step % settings.checkpoint_every == 0 or last or stopping,
        stopping=stopping and not last,
        last=last,
    )


class _Batches:
    """The batches of the steps that are left. What reads ahead ends with the `with` block, whatever ends that."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._source = self._begin()
        self.on_gpu: list[Any] | None = None
        """The last batch on the GPU, where a thread has copied it."""

    def _begin(self) -> Generator[list[Any], None, None] | Ahead[list[Any], Copied]:
        training = self._training
        source = training.train_batches(range(training.step, training.total_steps))
        # Without loader processes, batches are made by what evaluations and messages read too: not in a thread.
        is_ahead = training.group.device.type == "cuda" and training.settings.num_workers > 0
        return copied_ahead(source, training.group.device) if is_ahead else source

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def __next__(self) -> list[Any]:
        found = next(self._source)
        if not isinstance(found, Copied):
            return list(found)
        wait_for(found)
        self.on_gpu = found.on_gpu
        return found.parts

    def __iter__(self) -> Self:
        return self

    def restart(self) -> None:
        """Drop what was read ahead: it is of other steps than those that follow now."""
        self._source.close()
        self._source = self._begin()


def train_step(
    training: Training, parts: list[MicroBatch], on_gpu: list[MicroBatch] | None = None
) -> tuple[Losses, Tensor]:
    """Make one step of the optimizer; return the losses and the gradient's norm before clipping.

    on_gpu: the parts on the GPU, where they have been copied.
    """
    settings, optimizer = training.settings, training.optimizer
    factor = factor_at(training.step, training.total_steps, settings.schedule)
    updates = training.step - training.skipped_steps
    set_step(optimizer, settings.optimizer, factor=factor, step=updates)
    if training.steering is not None and not settings.optimizer.bias_correction:
        level_counts(optimizer, updates)
    losses = backward(
        training.wrapped,
        parts,
        training.objective,
        training.group,
        training.step,
        training.working,
        training.graphs,
        on_gpu,
    )
    if training.graphs is None:
        norm = clip_gradients(training.model.parameters(), settings.optimizer)
    else:
        norm = training.graphs.clip(settings.optimizer)
    training.unread += losses.unread
    result = StepResult(step=training.step, losses=losses, norm=norm)
    finite = result.finite
    if training.group.device.type == "cuda" and settings.non_finite == "stop":
        # torch's fused optimizers leave out, on the device, a step for which this is 1 (as for torch.amp.GradScaler).
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        training.unchecked.add(result, finite)
    elif bool(finite):
        optimizer.step()
        training.skipped_in_a_row = 0
    else:
        leave_out(training, parts, result)
    optimizer.zero_grad(set_to_none=True)
    return losses, norm


def require_finite(training: Training) -> None:
    """Raise NonFiniteError where a step since this was last called was not finite."""
    result = training.unchecked.first_bad()
    if result is None:
        return
    with closing(training.train_batches(range(result.step, result.step + 1))) as batches:  # the same as they were
        leave_out(training, next(batches), result)


def leave_out(training: Training, parts: list[MicroBatch], result: StepResult) -> None:
    """Count a step whose loss or gradient is not a number, or raise NonFiniteError, as the policy says."""
    step, losses, norm = result.step, result.losses, result.norm
    ids = gathered(training.group.gather([name for part in parts for name in part.image_ids]))
    bad = gathered(training.group.gather([name for part in parts for name in not_finite_images(part)]))
    rest = f" and {len(ids) - IDS_IN_A_MESSAGE} more" if len(ids) > IDS_IN_A_MESSAGE else ""
    values = ", ".join(
        f"{part} {value:g}" for part, value in zip(training.objective.parts, losses.means.tolist(), strict=True)
    )
    problem = (
        f"step {step}: the loss or a gradient is not finite ({values}, gradient norm {float(norm):g}); "
        f"images {', '.join(ids[:IDS_IN_A_MESSAGE])}{rest}. "
        f"{explain_inputs(bad, step, training.locate, data_names(training))}"
    )
    cause = (
        "extract again the shards that `vilbert verify` names" if bad else "if it finds nothing, lower --learning-rate"
    )
    training.skipped_steps += 1
    training.skipped_in_a_row += 1
    if training.settings.non_finite == "stop":
        raise NonFiniteError(f"{problem}; {cause}, or give --non-finite skip")
    if training.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
        raise NonFiniteError(f"{problem}; {cause}. This is the {MOST_SKIPPED_IN_A_ROW}th such step in a row")
    if training.group.first:
        logger.warning("%s; the step is skipped", problem)


def data_names(training: Training) -> list[str]:
    """Return the data sets that training reads, those of regions at given boxes included, as they were given."""
    return list(dict.fromkeys(str(one["path"]) for one in training.description.get("data", []) if "path" in one))


def held_out(
    training: Training, journal: Journal | None, *, saving: bool, interrupted: threading.Event | None = None
) -> bool:
    """Evaluate where anything is held out, write it down, and remember the best that a checkpoint is kept of.

    Return whether the steps that follow are others for it. When `interrupted` is set in a process, the evaluation ends
    before its next batch, nothing is written, and `training.evaluation_due` is set.
    """
    training.evaluation_due = False
    if training.eval_batches is None:
        return False
    with closing(training.eval_batches()) as batches:
        read = batches if interrupted is None else until_interrupted(batches, interrupted, training.group)
        try:
            found = training.objective.evaluate(training.model, read, training.group)
        except InterruptedEvaluationError:
            training.evaluation_due = True
            return False
    training.evaluation = found
    figures = found.figures()
    badness = training.objective.badness(figures)
    if saving and math.isfinite(badness) and badness < training.best.get("badness", math.inf):
        training.best = {"step": training.step, "badness": badness}
    if journal is not None:
        journal.write("eval", training.step, figures)
    return training.steering is not None and training.steering.note(training.step, figures)


def train_figures(training: Training, losses: Losses, norm: Tensor) -> dict[str, float]:
    """Return what metrics.jsonl says of a step but for times.

    Where tasks take turns, that is nothing of a loss that was not this step's.
    """
    means = dict(zip(training.objective.parts, losses.means.tolist(), strict=True))
    if training.steering is not None:
        means = {name: mean for (name, mean), count in zip(means.items(), losses.counts.tolist(), strict=True) if count}
    return {
        "loss": sum(means.values()),
        **{f"{name}_loss": value for name, value in means.items()},
        "learning_rate": max(group["lr"] for group in training.optimizer.param_groups),
        "gradient_norm": float(norm),
        "samples": training.samples(training.step),
        "unread": int(training.unread),
        "skipped_steps": training.skipped_steps,
    }
