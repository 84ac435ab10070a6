"""`--help` shows the values that are used: of every command, task, recipe, config file and trained model."""

from __future__ import annotations

import re
import shlex
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import COMMANDS, parse
from vilbert.pipeline.config_file import RECIPES, shipped_config
from vilbert.pipeline.finetune.run import task_identity
from vilbert.pipeline.renamed_options import DEPRECATED, RENAMED
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.pipeline.train.run.settings import RUNTIME, identity
from vilbert.settings import default_instance, options_of

from .predict.tiny_predictor import write_model

REQUIRED = {
    "shapes": ["out"],
    "manifest": ["source", "--output", "m.parquet"],
    "extract": ["m.parquet", "--output", "out"],
    "convert": ["features", "--output", "out"],
    "extract --add-to": ["--add-to", "features", "--column", "second"],
    "index": ["features"],
    "push": ["features", "--repo-id", "owner/name"],
    "column add": ["features", "values.parquet", "--column", "score"],
    "column list": ["features"],
    "score": ["features", "--column", "quality"],
    "select": ["features", "--output", "s.parquet", "--where", "width > 3"],
    "column drop": ["features", "--column", "score"],
    "export": ["features", "--to", "lxmert-tsv", "--output", "o.tsv"],
    "compare": ["a", "b"],
    "browse": ["features"],
    "convert-detector": ["a.pkl", "--output", "detector.safetensors"],
    "status": ["features"],
    "verify": ["features"],
    "inspect": ["features"],
    "stats": ["features"],
    "pretrain": ["features", "--output", "out"],
    "finetune": ["features", "--output", "out", "--annotations", "a", "--init-from", "i"],
    "finetune multitask": ["--tasks", "12-in-1", "--output", "out", "--init-from", "i"],
    "evaluate": ["features", "--annotations", "a", "--checkpoint", "c"],
    "report": ["features", "--annotations", "a", "--checkpoint", "c", "--results", "r"],
    "convert-checkpoint": ["a.bin", "--output", "out"],
    "demo": [],
    "doctor": [],
}
ASKED = {
    "vqa": "question", "gqa": "question", "snli-ve": "question", "vcr-qa": "question", "vcr-qar": "question",
    "refcoco": "phrase", "refcoco+": "phrase", "refcocog": "phrase", "retrieval": "caption",
    "retrieval-coco": "caption", "nlvr2": "statement",
}  # fmt: skip


def predict(task: str) -> list[str]:
    """Return what `vilbert predict TASK` needs."""
    texts = [f"--{ASKED[task]}", "text"] if task in ASKED else []
    choice = ["--option", "o"] if task.startswith("vcr") else []
    return [
        "--checkpoint",
        "c",
        "--image",
        "a.jpg",
        "b.jpg",
        *texts,
        *choice,
        *(["--answer", "a"] * (task == "vcr-qar")),
    ]


CASES = [
    *[(name, []) for name, command in COMMANDS.items() if not command.of_a_task],
    *[(name, [task]) for name, command in COMMANDS.items() if command.of_a_task for task in TASKS],
]
WITH_RECIPES = [
    *[("pretrain", [], path.stem) for path in sorted((RECIPES / "pretrain").glob("*.yaml"))],
    *[
        ("finetune", [task], path.stem)
        for task in TASKS
        for path in sorted((RECIPES / "finetune" / task).glob("*.yaml"))
    ],
    *[("finetune multitask", [], path.stem) for path in sorted((RECIPES / "finetune" / "multitask").glob("*.yaml"))],
]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the help have one column."""
    monkeypatch.setenv("COLUMNS", "80")


def help_of(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the default that `--help` shows of each option, by its name; and "(required)" of those without one."""
    with pytest.raises(SystemExit) as leaving:
        parse(command, [*arguments, "--help"])
    assert leaving.value.code in (0, None)
    texts: dict[str, str] = {}
    name = None
    for line in capsys.readouterr().out.splitlines():
        body = re.sub(r"\x1b\[[0-9;]*m", "", line)
        option = re.match(r"[│| ] --([a-z0-9-]+)", body)
        name = option[1].replace("-", "_") if option else name if re.match(r"[│| ] ", body) else None
        if name is not None:
            texts[name] = f"{texts.get(name, '')} {body.strip('│| ')}"
    shown = {name: re.findall(r"\((default: .*|required)\)$", " ".join(text.split())) for name, text in texts.items()}
    return {name: found[-1].rpartition("(")[2] for name, found in shown.items() if found}


def value_of(settings: Any, path: tuple[str, ...]) -> Any:
    return reduce(getattr, path, settings)


def shown(value: Any) -> str:
    """Return a value as the help shows it."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"default: {shlex.quote(text) if text else repr(value)}" if isinstance(value, str) else f"default: {text}"


def compare(found: dict[str, str], settings: Any, *, apart_from: set[str]) -> None:
    """Assert that the help has every option with the value that the settings have."""
    options = options_of(type(settings))
    assert found.keys() >= options.keys()
    for name, option in options.items():
        if name not in apart_from:
            assert found[name].strip() == shown(value_of(settings, option.path)).strip(), name


def given_names(arguments: list[str]) -> set[str]:
    return {word.removeprefix("--").replace("-", "_") for word in arguments if word.startswith("--")}


@pytest.mark.parametrize(
    ("command", "task"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_every_help_shows_the_values_that_are_used(
    command: str, task: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    required = predict(task[0]) if command == "predict" else REQUIRED[command]
    compare(help_of(command, task, capsys), parse(command, [*task, *required]), apart_from=given_names(required))


@pytest.mark.parametrize(
    ("command", "task", "recipe"), WITH_RECIPES, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_help_settings_and_run_json_agree_for_every_recipe(
    command: str, task: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    required = REQUIRED[command]
    settings = parse(command, [*task, *required, "--config", recipe])
    shown_values = help_of(command, [*task, "--config", recipe], capsys)
    compare(shown_values, settings, apart_from=given_names(required))
    recorded = task_identity(settings) if task else identity(settings)
    for name, option in options_of(type(settings)).items():
        if name not in RUNTIME and name != "given_data":
            value = value_of(settings, option.path)
            expected = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            assert recorded[name] == expected, name
            if name not in given_names(required):
                assert shown_values[name].strip() == shown(value).strip(), name
    name = f"{command} {task[0]}" if task else command
    assert Path(shipped_config(name, recipe)).parent == RECIPES / name.replace(" ", "/")


def test_the_published_settings_of_vqa_are_shown_and_used(capsys: pytest.CaptureFixture[str]) -> None:
    found = help_of("finetune", ["vqa"], capsys)
    expected = {"batch_size": 256, "epochs": 20.0, "split": "trainval", "learning_rate": 4e-05, "max_tokens": 23}
    assert {name: found[name] for name in expected} == {name: f"default: {value}" for name, value in expected.items()}


def test_values_of_a_config_file_are_shown_and_required_options_stay_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("batch-size: 7\noutput: runs/mine\ndrops: [0.25, 0.5]\ncompile: true\n")
    found = help_of("pretrain", ["--config", str(config)], capsys)
    assert found["batch_size"] == "default: 7"
    assert found["output"] == "default: runs/mine"
    assert found["drops"] == "default: 0.25 0.5"
    assert help_of("pretrain", [], capsys)["output"] == "required"
    with pytest.raises(SystemExit, match="2"):
        parse("pretrain", ["features"])
    assert "--output" in capsys.readouterr().err
    compare(found, parse("pretrain", ["features", "--config", str(config)]), apart_from=set())


@pytest.mark.parametrize(("command", "required"), [("predict", predict("vqa")), ("report", REQUIRED["report"])])
def test_the_detector_of_a_trained_model_is_shown_and_used(
    command: str, required: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {
        "extractor": "torchvision", "model": "fasterrcnn_mobilenet_v3_large_320_fpn", "feature_layer": "fc6",
        "precision": "bf16", "top_classes": 7, "selection": {"boxes": "10-100", "selection": "topk", "nms": 0.5},
    }  # fmt: skip
    run = write_model(tmp_path / "run", "vqa", extractors=(facts,))
    task = ["vqa"] if command == "predict" else []
    found = help_of(command, [*task, "--checkpoint", str(run)], capsys)
    assert (found["torchvision_model"], found["feature_layer"], found["top_classes"], found["boxes"], found["nms"]) == (
        "default: mobilenet_v3_large_320_fpn", "default: fc6", "default: 7", "default: 10-100", "default: 0.5"
    )  # fmt: skip
    settings = parse(command, [*task, *[str(run) if word == "c" else word for word in required]])
    compare(found, settings, apart_from=given_names(required))


def test_a_default_instance_is_not_taken_for_settings() -> None:
    settings_class = type(parse("pretrain", REQUIRED["pretrain"]))
    instance = default_instance(settings_class, {"warmup": 0.5}, fixed={})
    assert instance.schedule.warmup == 0.5
    with pytest.raises(ValueError, match="--output"):
        settings_class(data=("features",))


def test_every_shipped_recipe_has_a_case() -> None:
    recipes = {RECIPES.joinpath(*command.split(), *task, f"{name}.yaml") for command, task, name in WITH_RECIPES}
    components = {RECIPES / "model", RECIPES / "tokenizer", RECIPES / "multitask"}  # not settings of a command
    assert recipes == {path for path in RECIPES.rglob("*.yaml") if components.isdisjoint(path.parents)}


@pytest.mark.parametrize("old", [name for name in RENAMED if f"--{name}" not in DEPRECATED])
def test_every_renamed_option_is_in_the_changelog(old: str) -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert any(f"`--{old}`" in entry and f"`{RENAMED[old]}`" in entry for entry in changelog.split("\n- "))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max-words", "--max-tokens"),
        ("most-missing", "--max-missing-fraction"),
        ("least-answers", "--min-answer-count"),
    ],
)
def test_an_old_spelling_is_refused_with_the_new_one(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([f"--{old}", "3"], [f"--{old}=3"]):
        with pytest.raises(ValueError, match=f"--{old} was replaced; write {new}"):
            parse("finetune", ["vqa", *REQUIRED["finetune"], *arguments])
    for key in (old, old.replace("-", "_")):
        (tmp_path / "old.yaml").write_text(f"{key}: 3\n")
        with pytest.raises(ValueError, match=rf"old\.yaml: --{old} was replaced; write {new}"):
            parse("finetune", ["vqa", *REQUIRED["finetune"], "--config", str(tmp_path / "old.yaml")])
    (tmp_path / "tasks.yaml").write_text(f"- {{task: vqa, annotations: a, {old.replace('-', '_')}: 3}}\n")
    with pytest.raises(SystemExit, match="2"):
        parse("finetune multitask", ["f", "--tasks", str(tmp_path / "tasks.yaml"), "--output", "o", "--init-from", "i"])
    assert new in capsys.readouterr().err
