"""Choose the settings class of a command for a task, from the properties of its TaskSpec.

The settings modules are imported on demand, because importing all of them is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vilbert.pipeline.tasks.registry import TASKS, TaskSpec, find_task, require_prediction
from vilbert.settings import options_of


def finetune_settings(spec: TaskSpec) -> type[Any]:
    """Return the settings class of `vilbert finetune` for a task."""
    from vilbert.pipeline.finetune.settings import (
        AnswerListFinetuneSettings,
        AnyFinetuneSettings,
        FinetuneSettings,
        GivenRegionsFinetuneSettings,
        NamedPeopleFinetuneSettings,
    )

    collects_answers = spec.labels_setting is not None
    match collects_answers, spec.given_boxes != "unused", spec.takes_names:
        case False, False, False:
            return FinetuneSettings
        case True, False, False:
            return AnswerListFinetuneSettings
        case False, True, False:
            return GivenRegionsFinetuneSettings
        case False, True, True:
            return NamedPeopleFinetuneSettings
    return AnyFinetuneSettings


def evaluate_settings(spec: TaskSpec) -> type[Any]:
    """Return the settings class of `vilbert evaluate` for a task."""
    from vilbert.pipeline.evaluate.settings import (
        DescribeEvaluateSettings,
        GivenRegionsEvaluateSettings,
        ItemEvaluateSettings,
        RankEvaluateSettings,
        ReasonEvaluateSettings,
    )

    if spec.prediction == "rank":
        return RankEvaluateSettings
    if spec.prediction == "describe":
        return DescribeEvaluateSettings
    if spec.takes_answers:
        return ReasonEvaluateSettings
    return GivenRegionsEvaluateSettings if spec.given_boxes == "averaged" else ItemEvaluateSettings


def predict_settings(spec: TaskSpec) -> type[Any]:
    """Return the settings class of `vilbert predict` for a task."""
    from vilbert.pipeline.predict.settings import (
        AnswerSettings,
        ChooseReasonSettings,
        ChooseSettings,
        DescribeSettings,
        JudgeSettings,
        PointSettings,
        PredictSettings,
        RankSettings,
    )

    match spec.prediction:
        case "answer":
            return AnswerSettings
        case "choose":
            return ChooseReasonSettings if spec.takes_answers else ChooseSettings
        case "point":
            return PointSettings
        case "rank":
            return RankSettings
        case "describe":
            return DescribeSettings
        case "judge":
            return JudgeSettings
    return PredictSettings


_OF_COMMANDS = {"finetune": finetune_settings, "evaluate": evaluate_settings, "predict": predict_settings}


def task_settings(command: str, task: str) -> type[Any]:
    """Return the settings class of `vilbert COMMAND TASK`; `command` is finetune, evaluate or predict."""
    return _OF_COMMANDS[command](find_task(task))


def require_own_options(command: str, task: str, arguments: Sequence[str]) -> None:
    """Raise ValueError if the command line has an option that only other tasks have."""
    if command == "predict":
        require_prediction(task)
    settings_class = task_settings(command, task)
    own = options_of(settings_class)
    for option in [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]:
        name = option.removeprefix("--").removeprefix("no-").replace("-", "_")
        if name in own:
            continue
        others = [other for other in TASKS.built_in if name in options_of(task_settings(command, other))]
        if others:
            remedy = settings_class.remedies.get(name, "leave it out")
            raise ValueError(f"{option}: is not an option of {task}, only of {', '.join(others)}; {remedy}")
