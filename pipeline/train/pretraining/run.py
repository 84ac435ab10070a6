"""Pre-train a model on shards of region features."""

from __future__ import annotations

from functools import partial

import torch
from transformers import PreTrainedTokenizerBase

from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.known_features import read_known_features
from vilbert.pipeline.train.data.mixed_features import check_known_features
from vilbert.pipeline.train.engine.bad_inputs import locate_samples
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.loop import Training
from vilbert.pipeline.train.engine.optimizer import build_optimizer
from vilbert.pipeline.train.examples.words import load_tokenizer
from vilbert.pipeline.train.pretraining.data import TrainingData, all_captions, eval_batches, open_data, train_batches
from vilbert.pipeline.train.pretraining.evaluation import PretrainEvaluation, encode_evaluation
from vilbert.pipeline.train.pretraining.objective import PretrainObjective
from vilbert.pipeline.train.pretraining.settings import PretrainSettings
from vilbert.pipeline.train.pretraining.start import begins_from_text, build_model, load_start, model_config
from vilbert.pipeline.train.run.folder import describe_run
from vilbert.pipeline.train.run.run import Stage, finish_run, train, wrap
from vilbert.pipeline.train.run.settings import identity
from vilbert.pipeline.train.run.shared_tokenizer import shared_tokenizer


def pretrain(settings: PretrainSettings) -> int:
    """Pre-train from the newest checkpoint, or from the start, to the end; run it in every process of a group."""
    return train(settings, begin)


def begin(settings: PretrainSettings, group: Group) -> Stage:
    """Open the data and build the model; return the stage for the run."""
    data = open_data(settings, group)
    require_known_features(settings, data.corpus)

    def make_tokenizer() -> PreTrainedTokenizerBase:
        return load_tokenizer(settings.tokenizer, all_captions(data.corpus) if settings.tokenizer == "new" else None)

    tokenizer = shared_tokenizer(settings.output, group, make_tokenizer)
    training = prepare(settings, data, tokenizer, group)

    def finish() -> None:
        words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        found = training.evaluation
        encoded = None
        if isinstance(found, PretrainEvaluation):
            encoded = encode_evaluation(found, words, data.corpus.class_names)
        finish_run(training, tokenizer, encoded)

    return Stage(
        training=training,
        load_start=partial(load_start, training.model, settings, data.corpus),
        finish=finish,
    )


def require_known_features(settings: PretrainSettings, corpus: Corpus) -> None:
    """Raise RefusedError if `--init-from` is a ViLBERT that was trained on features of another detector."""
    if settings.init_from == "none":
        return
    known = read_known_features(settings.init_from)
    try:
        if not known or begins_from_text(settings.init_from):
            return
    except (ValueError, OSError) as error:
        raise RefusedError(f"--init-from {settings.init_from}: {error}") from error
    check_known_features(
        known,
        corpus.sources,
        model=f"--init-from {settings.init_from}",
        allow_mixed=settings.allow_mixed_features,
    )


def prepare(
    settings: PretrainSettings, data: TrainingData, tokenizer: PreTrainedTokenizerBase, group: Group
) -> Training:
    """Build the run before its first step."""
    config = model_config(
        settings,
        tokenizer,
        feature_dim=data.corpus.feature_dim,
        num_classes=data.num_classes,
        soft_labels=data.corpus.target_classes > 0,
    )
    model = build_model(settings, config)
    torch.nn.Module.to(model, group.device)  # transformers' own has no types
    model.train()
    optimizer = build_optimizer(model, settings.optimizer, from_bert=settings.init_from != "none")
    return Training(
        settings=settings,
        group=group,
        model=model,
        wrapped=wrap(model, settings, group, reads_all=config.with_coattention),
        optimizer=optimizer,
        objective=PretrainObjective(
            num_classes=data.num_classes,
            visual_target=config.visual_target,
            feature_dim=data.corpus.feature_dim,
            bfloat16=settings.precision == "bf16",
            seed=settings.seed,
            # Drawing negatives (visual target 2) waits for the GPU in any case.
            known_positions=isinstance(model, ViLBertForPreTraining)
            and not config.task_specific_tokens
            and config.visual_target != 2,
        ),
        locate=locate_samples(data.corpus, data.order, settings.batch_size),
        total_steps=settings.steps(data.order.epoch_size),
        epoch_size=data.order.epoch_size,
        train_batches=partial(train_batches, settings, data, tokenizer, group),
        eval_batches=partial(eval_batches, settings, data, tokenizer, group) if data.held_out else None,
        description=describe_run(
            {**identity(settings), **data.splits},
            config.to_dict(),
            data.corpus.fingerprints,
            data.held_out.fingerprints if data.held_out else [],
            extractors=data.corpus.extractors,
        ),
    )
