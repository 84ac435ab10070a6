"""Options that mean nothing to a task are neither shown for it nor taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.tasks.evaluate_settings import EvaluateSettings
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.pipeline.tasks.settings import FinetuneSettings

EVALUATE = ["features", "--checkpoint", "c", "--annotations", "a"]
FINETUNE = ["features", "--annotations", "a", "--output", "o", "--init-from", "i"]
RETRIEVAL = ("retrieval", "retrieval-coco")
OF_RETRIEVAL = {"--zero-shot": [], "--pairs-per-batch": ["8"], "--hold-bytes": ["9"], "--scores": ["s"]}


def help_of(command: str, task: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        parse(command, [task, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["finetune", "evaluate", "predict"])
def test_the_task_is_named_first_and_is_no_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--task " not in help_of(command, "vqa", capsys)


@pytest.mark.parametrize("task", TASKS)
def test_the_settings_of_retrieval_are_those_of_retrieval_alone(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("evaluate", task, capsys)
    for option, value in OF_RETRIEVAL.items():
        assert (option in shown) == (task in RETRIEVAL), option
        if task not in RETRIEVAL:
            assert main(["evaluate", task, *EVALUATE, option, *value]) == 2
            assert f"{option}: is no option of {task} but of retrieval" in capsys.readouterr().err
    found = parse(
        "evaluate", ["retrieval", *EVALUATE, *[word for each in OF_RETRIEVAL.items() for word in (each[0], *each[1])]]
    )
    assert (found.zero_shot, found.pairs_per_batch, found.hold_bytes, found.scores) == (True, 8, 9, Path("s"))


@pytest.mark.parametrize(
    ("command", "task", "option", "of"),
    [
        ("evaluate", "vqa", ("--beams", "2"), "captioning"),
        ("evaluate", "vcr-qa", ("--answers-from=x",), "vcr-qar"),
        ("evaluate", "retrieval", ("--batch-size", "2"), "vqa"),
        ("finetune", "vqa", ("--given-data", "x"), "vcr-qa"),
        ("finetune", "refcoco", ("--least-answers", "1"), "vqa, gqa"),
        ("finetune", "nlvr2", ("--answers", "x"), "vqa, gqa"),
    ],
)
def test_an_option_of_another_task_is_refused_and_says_whose_it_is(
    command: str, task: str, option: tuple[str, ...], of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, task, *(EVALUATE if command == "evaluate" else FINETUNE), *option]) == 2
    said = capsys.readouterr().err
    assert f"{option[0].partition('=')[0]}: is no option of {task} but of {of}" in said
    assert "Traceback" not in said


def test_a_config_cannot_name_the_task_nor_an_option_of_another(tmp_path: Path) -> None:
    for line in ("task: gqa", "beams: 2"):
        (tmp_path / "mine.yaml").write_text(line)
        with pytest.raises(ValueError, match=f"no option {line.partition(':')[0]}"):
            parse("evaluate", ["vqa", *EVALUATE, "--config", str(tmp_path / "mine.yaml")])


@pytest.mark.parametrize("task", ["refcoco", "refcoco+", "refcocog"])
def test_true_boxes_are_never_shown_beside_the_detectors_in_evaluation(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", task, *EVALUATE, "--given-data", "given"]) == 2
    assert "name their data set in place of the features" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--given-data: is no option of"):
        EvaluateSettings(
            data=("features",), task=task, checkpoint=Path("c"), annotations=Path("a"), given_data=("given",)
        )


@pytest.mark.parametrize("task", ["gqa", "nlvr2", "snli-ve"])
def test_classifiers_that_vilbert_beta_has_not_are_refused(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", task, *FINETUNE, "--task-heads", "beta"])
    assert f"has no classifier for {task}" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert parse("finetune", ["vqa", *FINETUNE, "--task-heads", "beta"]).task_heads == "beta"


def test_settings_are_of_a_class_that_other_processes_know() -> None:
    assert type(parse("finetune", ["vqa", *FINETUNE])) is FinetuneSettings
    assert type(parse("evaluate", ["refcoco", *EVALUATE])) is EvaluateSettings
