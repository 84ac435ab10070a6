"""Fine-tuning is a run as pre-training is one: it is resumed, refused, evaluated and used again by the same rules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.run import open_items, open_task_data
from vilbert.pipeline.finetune.settings import FinetuneSettings
from vilbert.pipeline.train.run.journal import read_journal, without_timing

from ..tasks.small_tasks import finetune_arguments

STEPS = 6


def run(small: Path, task: str, output: Path, *more: str) -> int:
    torch.set_num_threads(1)
    options = ["--checkpoint-every", "2", "--eval-every", "3", "--log-every", "1", "--batch-size", "12"]
    return main([*finetune_arguments(small, task, output, steps=STEPS), *options, *more])


def test_a_split_to_evaluate_on_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    image = {"filename": "a.jpg", "cocoid": 1, "split": "train", "sentences": [{"raw": "a dog"}]}
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": [image]}))
    settings = FinetuneSettings(
        task="captioning", annotations=tmp_path, data=("features",), output=tmp_path / "run", init_from="base"
    )
    with pytest.raises(RefusedError, match=r"--eval-split val: .* splits are: train.* none to evaluate on nothing"):
        open_items(settings)


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finetune") / "run"
    assert run(small, "vqa", output) == 0
    return output


def test_the_config_of_the_model_has_the_answers_as_its_labels(finished: Path) -> None:
    answers = json.loads((finished / "final" / "task.json").read_text())["labels"]
    config = ViLBertForTasks.from_pretrained(finished / "final").config
    assert len(answers) > 1
    assert config.id2label == dict(enumerate(answers))
    assert config.label2id == {answer: number for number, answer in enumerate(answers)}


def lines(output: Path) -> list[dict[str, Any]]:
    return without_timing(read_journal(output))


@pytest.mark.parametrize(
    "more",
    [
        (),
        pytest.param(("--num-workers", "1"), marks=pytest.mark.slow),
        pytest.param(("--grad-accumulation", "3"), marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(
    small: Path, finished: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    again = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("step-00000004", "step-00000006"):
        shutil.rmtree(again / "checkpoints" / name)
    shutil.rmtree(again / "final")
    assert run(small, "vqa", again, *more) == 0
    before, after = lines(finished), lines(again)
    assert [line["step"] for line in after] == [line["step"] for line in before]
    for ours, theirs in zip(after, before, strict=True):
        if more and more[0] == "--grad-accumulation":  # parts are added up in another order
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        else:
            assert ours == theirs


def test_a_model_of_another_width_is_named_by_the_option_that_chose_it(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path(shutil.copytree(finished / "final", tmp_path / "start"))
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**config, "v_feature_size": 7}))
    (tmp_path / "model.json").write_text(json.dumps({**config, "v_feature_size": 9}))
    command = ["finetune", "snli-ve", str(small / "features"), "--annotations", str(small / "snli-ve")]
    command += ["--init-from", str(start), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main(command) == 2
    assert f"--init-from {start}: was trained on features of 7 channels, the data sets have" in capsys.readouterr().err
    assert main([*command, "--model", str(tmp_path / "model.json")]) == 2
    assert "model.json: takes features of 9 channels" in capsys.readouterr().err


def test_other_settings_and_other_annotations_are_refused_by_name(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small, "vqa", finished, "--learning-rate", "0.5") == 2
    assert "learning_rate 0.001 before, now 0.5" in capsys.readouterr().err
    other = Path(shutil.copytree(small / "vqa", tmp_path / "vqa"))
    path = other / "v2_OpenEnded_mscoco_train2014_questions.json"
    path.write_text(path.read_text().replace("Is there a dog", "Is there one dog"))
    assert run(small, "vqa", finished, "--annotations", str(other)) == 2
    assert "annotations" in capsys.readouterr().err


def test_evaluating_the_result_gives_the_figures_of_its_last_evaluation(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    arguments = [
        "evaluate", "vqa", str(small / "features"), "--checkpoint", str(finished), "--annotations", str(small / "vqa"),
        "--output", str(results), "--device", "cpu", "--num-workers", "0", "--batch-size", "50", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures.pop("left_out") == 0
    expected = json.loads((finished / "evaluation.json").read_text())["figures"]
    assert figures.keys() == expected.keys()
    for name, value in figures.items():
        assert value == pytest.approx(expected[name], rel=1e-5), name
    rows = json.loads(results.read_text())
    assert all(row.keys() == {"question_id", "answer"} for row in rows)
    assert [row["question_id"] for row in rows] == sorted(row["question_id"] for row in rows)
    assert len(rows) == 300


def test_images_without_features_are_counted_and_too_many_of_them_stop_the_run(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(small / "refer", tmp_path / "refer"))
    refs = json.loads((folder / "refs(umd).json").read_text())
    for ref in refs[3:9]:
        ref["image_id"] = 10_000_000
    instances = json.loads((folder / "instances.json").read_text())
    for one in instances["annotations"][3:9]:
        one["image_id"] = 10_000_000
    (folder / "refs(umd).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances))
    assert run(small, "refcocog", tmp_path / "run", "--annotations", str(folder)) == 0
    assert "6 of 2,250 are about images without features (10000000" in caplog.text
    assert (
        run(small, "refcocog", tmp_path / "other", "--annotations", str(folder), "--max-missing-fraction", "0.002") == 2
    )
    assert "--max-missing-fraction 0.002" in capsys.readouterr().err


def test_a_selection_leaves_out_annotations_of_other_images(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def select(where: str) -> str:
        output = tmp_path / "s.parquet"
        assert main(["select", str(small / "features"), "--where", where, "--output", str(output)]) == 0
        return str(output)

    half = ["--selection", select("endswith(image_id, '1') or endswith(image_id, '4') or endswith(image_id, '8')")]
    short = ["--max-steps", "1", "--eval-split", "none"]
    assert run(small, "refcocog", tmp_path / "run", *half, *short) == 0
    assert "are about images without features in the --selection" in caplog.text
    described = json.loads((tmp_path / "run/run.json").read_text())
    (entry,) = described["data"]
    assert len(entry["selection"]) == 64
    whole = FinetuneSettings(
        task="refcocog", data=(str(small / "features"),), annotations=small / "refer", output=tmp_path / "other",
        init_from="none", model=str(small / "model.json"), tokenizer="new", selection=(Path(half[1]),), device="cpu",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/final")
    data = open_task_data(whole, tokenizer, *open_items(whole))
    assert {image[-1] for image in data.train.images.number} == {"1", "4", "8"}
    assert data.train.order.epoch_size == len(data.train.joined.kept)
    assert data.held_out is not None
    assert 0 < len(data.held_out.joined.kept) < len(data.held_out.task.items)
    one = ["--selection", select("image_id == '1'")]
    assert run(small, "refcocog", tmp_path / "third", *one) == 2
    assert "select images of these annotations too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--init-from", "nowhere"), "nowhere"),
        (("--annotations", "nowhere"), "nowhere"),
        (("--split", "trainest"), "trainest"),
        (("--max-tokens", "99"), "24 positions"),
    ],
)
def test_mistakes_are_said_without_a_traceback(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert run(small, "vqa", tmp_path / "run", *more) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_an_option_out_of_range_is_said(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(small, "vqa", tmp_path / "run", "--max-missing-fraction", "2")
    assert "--max-missing-fraction 2" in capsys.readouterr().err


def test_a_task_that_there_is_not_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "vqs"]) == 2
    assert "vqa, gqa, vcr-qa" in capsys.readouterr().err
    assert main(["finetune", "--help"]) == 0
    assert "captioning" in capsys.readouterr().out
