"""From shards to a pre-trained model, or on from where a run stopped.

`train` is the one training function. It runs in this process, in each that torchrun started, or in each of Ray Train's.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase

from model.vilbert import ViLBertForPreTraining
from pipeline.shards.errors import RefusedError
from pipeline.shards.lock import exclusive_writer
from pipeline.train.checkpoints import load_checkpoint, newest_whole, sweep
from pipeline.train.corpus import Corpus
from pipeline.train.data import TrainingData, all_captions, eval_batches, open_data, share, total_steps, train_batches
from pipeline.train.distributed import Group, process_group
from pipeline.train.export import export_final
from pipeline.train.journal import Journal, read_journal
from pipeline.train.loop import Training, restore, run_steps
from pipeline.train.optimizer import build_optimizer
from pipeline.train.progress import TrainProgress
from pipeline.train.report import write_report
from pipeline.train.run_folder import describe_run, make_run_folder, read_run, require_same_run, write_run
from pipeline.train.settings import PretrainSettings, identity
from pipeline.train.start import build_model, model_config
from pipeline.train.step import Task
from pipeline.train.words import load_tokenizer

logger = logging.getLogger(__name__)


def train(settings: PretrainSettings) -> int:
    """Train from the newest checkpoint, or from the start, to the end; the same in every process of the group."""
    with process_group(settings.device) as group, ExitStack() as stack:
        if group.first:
            make_run_folder(settings.output)
            stack.enter_context(exclusive_writer(settings.output))
            sweep(settings.output)
        group.wait()
        data = open_data(settings)
        share(settings, group)  # refuses a batch size that does not divide
        tokenizer = shared_tokenizer(settings, data.corpus, group)
        training = prepare(settings, data, tokenizer, group)
        resume(training)
        finished = run(training, stack)
        if not group.first:
            return 0 if finished else 130
        if not finished:
            logger.warning(
                "interrupted after step %d of %d; run the same command again to go on",
                training.step,
                training.total_steps,
            )
            return 130
        finish(training, tokenizer)
    return 0


def shared_tokenizer(settings: PretrainSettings, corpus: Corpus, group: Group) -> PreTrainedTokenizerBase:
    """Return the run's tokenizer, which the first process makes and keeps in RUN/tokenizer."""
    folder = settings.output / "tokenizer"
    if group.first and not folder.is_dir():
        made = load_tokenizer(settings.tokenizer, all_captions(corpus) if settings.tokenizer == "new" else None)
        temporary = folder.with_name(".tokenizer.tmp")
        made.save_pretrained(temporary)
        temporary.rename(folder)
    group.wait()
    return load_tokenizer(str(folder), None)


def prepare(
    settings: PretrainSettings, data: TrainingData, tokenizer: PreTrainedTokenizerBase, group: Group
) -> Training:
    """Return a run before its first step."""
    config = model_config(settings, tokenizer, feature_dim=data.corpus.feature_dim, num_classes=data.num_classes)
    model = build_model(settings, config)
    torch.nn.Module.to(model, group.device)  # transformers' own has no types
    model.train()
    optimizer = build_optimizer(model, settings.optimizer, from_bert=settings.init_from != "none")
    return Training(
        settings=settings,
        group=group,
        model=model,
        wrapped=wrap(model, settings, group),
        optimizer=optimizer,
        task=Task(
            num_classes=data.num_classes,
            visual_target=config.visual_target,
            feature_dim=data.corpus.feature_dim,
            bfloat16=settings.precision == "bf16",
            seed=settings.seed,
        ),
        total_steps=total_steps(settings, data.order),
        train_batches=partial(train_batches, settings, data, tokenizer, group),
        eval_batches=partial(eval_batches, settings, data, tokenizer, group) if data.held_out else None,
        description=describe_run(
            identity(settings),
            config.to_dict(),
            data.corpus.fingerprints,
            data.held_out.fingerprints if data.held_out else [],
        ),
    )


def wrap(model: ViLBertForPreTraining, settings: PretrainSettings, group: Group) -> nn.Module:
    """Return what goes forward."""
    wrapped: nn.Module = model
    if settings.compile:
        wrapped = cast(nn.Module, torch.compile(wrapped, dynamic=True))
    if group.world > 1:
        devices = [group.device.index] if group.device.type == "cuda" else None
        wrapped = DistributedDataParallel(wrapped, device_ids=devices, gradient_as_bucket_view=True)
    return wrapped


def resume(training: Training) -> None:
    """Put the checkpoint back that the settings ask for, if there is one; refuse one of another run."""
    settings, group = training.settings, training.group
    newest = newest_whole(settings.output)
    path = newest.path if newest is not None else None
    if settings.resume != "auto":
        path = Path(settings.resume)
    if path is not None:
        found, model, optimizer = load_checkpoint(path)
        if newest is not None and newest.step > found.step:
            raise RefusedError(
                f"--resume {path}: {settings.output} has gone on to step {newest.step} since; delete the checkpoints "
                f"behind step {found.step}, give another --output, or --resume auto"
            )
        require_same_run(found.info["run"], training.description, where=path)
        restore(training, found.info, model, optimizer)
        if group.first:
            logger.info("going on from step %d of %d", training.step, training.total_steps)
    elif (before := read_run(settings.output)) is not None:
        require_same_run(before, training.description, where=settings.output)
    group.wait()
    if group.first:
        write_run(settings.output, training.description)


def run(training: Training, stack: ExitStack) -> bool:
    """Make the steps that are left; return False where a signal ended them."""
    if not training.group.first:
        return run_steps(training, None, None)
    settings = training.settings
    journal = Journal(settings.output, resumed_at=training.step or None, tensorboard=settings.tensorboard)
    stack.callback(journal.close)
    progress = TrainProgress(training.total_steps, training.step, settings.batch_size)
    stack.callback(progress.close)
    return run_steps(training, journal, progress)


def finish(training: Training, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write RUN/final and RUN/report.html and say how the run went."""
    output = training.settings.output
    evaluations = [entry for entry in read_journal(output) if entry["kind"] == "eval"]
    facts: dict[str, Any] = {
        **training.description,
        "steps": training.step,
        "evaluation": evaluations[-1] if evaluations else None,
    }
    export_final(output, training.model, tokenizer, facts)
    write_report(output)
    logger.info(
        "%s: done after %d steps; the model is in %s, curves in %s",
        output,
        training.step,
        output / "final",
        output / "report.html",
    )
