"""From shards to a pre-trained model, or on from where a run stopped.

`train` is the one training function. It runs in this process, in each that torchrun started, or in each of Ray Train's.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase

from model.vilbert import ViLBertForPreTraining
from pipeline.shards.atomic import write_atomic
from pipeline.shards.errors import RefusedError
from pipeline.train.checkpoints import Checkpoint, newest_whole, read_checkpoint, sweep
from pipeline.train.corpus import Corpus
from pipeline.train.data import TrainingData, all_captions, eval_batches, open_data, share, total_steps, train_batches
from pipeline.train.disk import naming
from pipeline.train.distributed import Group, process_group
from pipeline.train.evaluate import encode_evaluation
from pipeline.train.export import export_final, sync_folder
from pipeline.train.journal import Journal, read_journal
from pipeline.train.loop import Training, held_out, restore, run_steps
from pipeline.train.optimizer import build_optimizer
from pipeline.train.progress import TrainProgress
from pipeline.train.report import write_report
from pipeline.train.run_folder import (
    RUN_FILE,
    describe_run,
    make_run_folder,
    read_run,
    require_same_run,
    write_run,
    writing,
)
from pipeline.train.settings import PretrainSettings, identity
from pipeline.train.start import build_model, load_start, model_config
from pipeline.train.step import Task
from pipeline.train.words import load_tokenizer, save_tokenizer

logger = logging.getLogger(__name__)

LAST_BREATH = 30.0  # seconds that a killed process may take to let go of the folder
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def train(settings: PretrainSettings) -> int:
    """Train from the newest checkpoint, or from the start, to the end; the same in every process of the group."""
    with process_group(settings.device) as group, ExitStack() as stack:
        if group.first:
            make_run_folder(settings.output)
            stack.enter_context(writing(settings.output, patience=LAST_BREATH if settings.workers else 0))
            sweep(settings.output)
        group.wait()
        data = open_data(settings)
        share(settings, group)  # refuses more processes, or parts, than a batch has pairs
        tokenizer = shared_tokenizer(settings, data.corpus, group)
        training = prepare(settings, data, tokenizer, group)
        resume(training, data.corpus)
        finished = run(training, stack)
        if finished and training.evaluation is None:
            held_out(training, None, saving=False)  # all steps were done before, by a process that was killed since
        if not group.first:
            return 0 if finished else 130
        if not finished:
            logger.warning(
                "interrupted after step %d of %d; run the same command again to go on",
                training.step,
                training.total_steps,
            )
            return 130
        finish(training, tokenizer, data.corpus.class_names)
    return 0


def shared_tokenizer(settings: PretrainSettings, corpus: Corpus, group: Group) -> PreTrainedTokenizerBase:
    """Return the run's tokenizer, which the first process makes and keeps in RUN/tokenizer.

    It is made anew until run.json is there: a start that was refused may have asked for another.
    """
    folder = settings.output / "tokenizer"
    is_whole = all((folder / name).is_file() for name in TOKENIZER_FILES)
    if group.first and not (is_whole and (settings.output / RUN_FILE).is_file()):
        made = load_tokenizer(settings.tokenizer, all_captions(corpus) if settings.tokenizer == "new" else None)
        temporary = folder.with_name(".tokenizer.tmp")
        for left in (temporary, folder):
            shutil.rmtree(left, ignore_errors=True)
        with naming(folder):
            save_tokenizer(made, temporary)
            sync_folder(temporary)
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
        wrapped = DistributedDataParallel(
            wrapped,
            device_ids=devices,
            gradient_as_bucket_view=True,
            find_unused_parameters=not model.config.with_coattention,  # then there are layers that nothing reads
        )
    return wrapped


def begin_group(settings: PretrainSettings) -> None:
    """Refuse what a group of processes cannot do, before any is started: another writer is at work, or `--resume`."""
    make_run_folder(settings.output)
    with writing(settings.output, patience=0):
        checkpoint_to_resume(settings, is_start=True)


def checkpoint_to_resume(settings: PretrainSettings, *, is_start: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, its hashes compared: the run's newest, or an earlier run's to begin by.

    None where there is none. is_start: False where a group is started again, which goes on from the newest whatever it
    began with. RefusedError where `--resume` names a checkpoint of this run that it has gone on from since.
    """
    newest = newest_whole(settings.output)
    if settings.resume == "auto":
        return newest
    path = Path(settings.resume)
    if newest is None or newest.step <= (asked := read_checkpoint(path, hashes=False)).step:
        return read_checkpoint(path, hashes=True)
    if is_start and path.resolve().parent == newest.path.resolve().parent:
        raise RefusedError(
            f"--resume {path}: {settings.output} has gone on to step {newest.step} since; delete the checkpoints "
            f"behind step {asked.step}, give another --output, or --resume auto"
        )
    return newest


def resume(training: Training, corpus: Corpus) -> None:
    """Put the checkpoint back that the settings ask for, or begin where there is none; refuse one of another run."""
    settings, group = training.settings, training.group
    found = checkpoint_to_resume(settings, is_start=not settings.workers)
    if found is not None:
        require_same_run(found.info["run"], training.description, where=found.path)
        restore(training, found.info, *found.read_tensors())
        if group.first:
            logger.info("going on from step %d of %d", training.step, training.total_steps)
    else:
        if (before := read_run(settings.output)) is not None:
            require_same_run(before, training.description, where=settings.output)
        load_start(training.model, settings, corpus)
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


def finish(training: Training, tokenizer: PreTrainedTokenizerBase, classes: Sequence[str]) -> None:
    """Write RUN/final, RUN/evaluation.json and RUN/report.html and say how the run went."""
    output = training.settings.output
    evaluations = [entry for entry in read_journal(output) if entry["kind"] == "eval"]
    facts: dict[str, Any] = {
        **training.description,
        "steps": training.step,
        "evaluation": evaluations[-1] if evaluations else None,
    }
    export_final(output, training.model, tokenizer, facts)
    if training.evaluation is not None:
        words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        write_atomic(output / "evaluation.json", encode_evaluation(training.evaluation, words, classes))
    write_report(output)
    logger.info(
        "%s: done after %d steps; the model is in %s, curves in %s",
        output,
        training.step,
        output / "final",
        output / "report.html",
    )
