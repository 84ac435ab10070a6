"""`vilbert finetune TASK`, `vilbert finetune multitask`, `vilbert evaluate TASK` and `vilbert predict TASK`.

Heavy modules are imported only when a command runs.
"""

from __future__ import annotations

from vilbert.pipeline.evaluate.settings import EvaluateSettings
from vilbert.pipeline.finetune.multitask.settings import MultitaskSettings
from vilbert.pipeline.finetune.settings import FinetuneSettings
from vilbert.pipeline.predict.settings import PredictSettings
from vilbert.pipeline.signals import terminate_like_interrupt
from vilbert.pipeline.train.engine.memory import explain_out_of_memory
from vilbert.pipeline.train.pretraining.command import start


def finetune(settings: FinetuneSettings) -> int:
    """Fine-tune in this process or on Ray workers; return the exit status."""
    from vilbert.pipeline.finetune.run import finetune as train

    return start(train, settings)


def multitask(settings: MultitaskSettings) -> int:
    """Fine-tune on several tasks at once, in this process or on Ray workers; return the exit status."""
    from vilbert.pipeline.finetune.multitask.run import multitask as train

    return start(train, settings)


def evaluate(settings: EvaluateSettings) -> int:
    """Score a fine-tuned model on a split; return the exit status."""
    from vilbert.pipeline.evaluate.evaluation import evaluate as score

    with terminate_like_interrupt(), explain_out_of_memory("Lower --batch-size (retrieval: --pairs-per-batch)"):
        return score(settings)


def predict(settings: PredictSettings) -> int:
    """Run a fine-tuned model on photographs; return the exit status."""
    from vilbert.pipeline.predict.command import predict as ask

    with terminate_like_interrupt(), explain_out_of_memory("Give --device cpu, or smaller photographs"):
        return ask(settings)
