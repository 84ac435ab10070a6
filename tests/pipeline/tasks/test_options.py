"""Options that mean nothing to a task are neither shown for it nor taken."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.evaluate.settings import ItemEvaluateSettings
from vilbert.pipeline.finetune.run import task_identity
from vilbert.pipeline.task_settings import task_settings
from vilbert.pipeline.tasks.registry import TASKS

EVALUATE = ["features", "--checkpoint", "c", "--annotations", "a"]
FINETUNE = ["features", "--annotations", "a", "--output", "o", "--init-from", "i"]
RETRIEVAL = ("retrieval", "retrieval-coco")
PREDICT = ["--checkpoint", "c", "--image", "a.jpg", "b.jpg"]
ARGUMENTS = {"finetune": FINETUNE, "evaluate": EVALUATE, "predict": PREDICT}
ASKED = {
    **{task: ["--question", "q"] for task in ("vqa", "gqa", "snli-ve")},
    "vcr-qa": ["--question", "q", "--option", "o"],
    "vcr-qar": ["--question", "q", "--option", "o", "--answer", "a"],
    **{task: ["--phrase", "p"] for task in ("refcoco", "refcoco+", "refcocog")},
    **{task: ["--caption", "c"] for task in ("retrieval", "retrieval-coco")},
    "captioning": [],
    "nlvr2": ["--statement", "s"],
}
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
            assert f"{option}: is not an option of {task}, only of retrieval" in capsys.readouterr().err
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
        ("finetune", "refcoco", ("--min-answer-count", "1"), "vqa, gqa"),
        ("finetune", "nlvr2", ("--answers", "x"), "vqa, gqa"),
    ],
)
def test_an_option_of_another_task_is_refused_and_says_whose_it_is(
    command: str, task: str, option: tuple[str, ...], of: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, task, *(EVALUATE if command == "evaluate" else FINETUNE), *option]) == 2
    said = capsys.readouterr().err
    assert f"{option[0].partition('=')[0]}: is not an option of {task}, only of {of}" in said
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
    with pytest.raises(ValueError, match="--given-data given: no such setting"):
        ItemEvaluateSettings(
            data=("features",),
            task=task,
            checkpoint=Path("c"),
            annotations=Path("a"),
            given_data=("given",),  # type: ignore[call-arg]
        )


@pytest.mark.parametrize("task", ["gqa", "nlvr2", "snli-ve"])
def test_classifiers_that_vilbert_beta_has_not_are_refused(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", task, *FINETUNE, "--task-heads", "beta"])
    assert f"has no classifier for {task}" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert parse("finetune", ["vqa", *FINETUNE, "--task-heads", "beta"]).task_heads == "beta"


@pytest.mark.parametrize("command", ["finetune", "evaluate", "predict"])
@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_settings_of_its_own_which_other_processes_know(command: str, task: str) -> None:
    found = parse(command, [task, *ARGUMENTS[command], *(ASKED[task] if command == "predict" else [])])
    assert type(found) is task_settings(command, task)
    assert found.task == task
    assert pickle.loads(pickle.dumps(found)) == found
    assert replace(found, checkpoint=Path("d")) != found if command != "finetune" else replace(found, seed=1) != found


def test_a_run_records_the_settings_of_every_task_as_it_always_did() -> None:
    of_others = {"names": None, "answers": None, "min_answer_count": 9, "answer_prior": False}
    for task in TASKS:
        recorded = task_identity(parse("finetune", [task, *FINETUNE]))
        assert of_others.items() <= recorded.items()
        assert "given_data" not in recorded
    assert task_identity(parse("finetune", ["gqa", *FINETUNE, "--min-answer-count", "2"]))["min_answer_count"] == 2
