"""An input that does not exist is a usage error of every command: status 2, and the message names the path."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.cli import COMMANDS, main

ABSENT = "absent/input"
COMMAND_LINES = {
    "manifest": [f"manifest {ABSENT} --output new.parquet"],
    "extract": [f"extract {ABSENT}.parquet --output new --detector shapes"],
    "convert": [
        f"convert {ABSENT} --output new",
        f"convert {ABSENT} --output new --dry-run",
        f"convert {ABSENT}.tsv --output new --source-format bottom-up-tsv",
    ],
    "extract --add-to": [f"extract --add-to {ABSENT} --column x --detector shapes"],
    "status": [f"status {ABSENT}"],
    "verify": [f"verify {ABSENT}", f"verify {ABSENT} --deep --json", "verify memory://absent/input"],
    "index": [f"index {ABSENT}"],
    "push": [f"push {ABSENT} --repo-id somebody/features"],
    "column add": [f"column add {ABSENT} --column x values.parquet"],
    "column list": [f"column list {ABSENT}", "column list memory://absent/input"],
    "column drop": [f"column drop {ABSENT} --column x"],
    "score": [f"score {ABSENT} --column x"],
    "select": [f"select {ABSENT} --where width>3 --output new.parquet"],
    "inspect": [f"inspect {ABSENT}", f"inspect {ABSENT}:7", f"inspect {ABSENT}.lmdb"],
    "stats": [f"stats {ABSENT}"],
    "export": [f"export {ABSENT} --to mmf-lmdb --output new"],
    "compare": [f"compare {ABSENT} detector:shapes"],
    "browse": [f"browse {ABSENT}"],
    "pretrain": [f"pretrain {ABSENT} --output new"],
    "finetune": [
        f"finetune vqa features --annotations {ABSENT} --init-from none --model base --tokenizer new --output new"
    ],
    "finetune multitask": [
        f"finetune multitask --tasks {ABSENT} --init-from none --model base --tokenizer new --output new"
    ],
    "evaluate": [f"evaluate vqa {ABSENT} --annotations . --checkpoint {ABSENT}"],
    "predict": [f"predict vqa --checkpoint {ABSENT} --image x.jpg --question why"],
    "report": [f"report {ABSENT} --checkpoint {ABSENT} --results x --annotations . --output new.html"],
    "convert-checkpoint": [f"convert-checkpoint {ABSENT} --output new"],
    "convert-detector": [f"convert-detector {ABSENT} --output new.safetensors"],
}
WITHOUT_INPUT = {"shapes", "demo", "doctor"}


def test_every_command_is_in_the_table() -> None:
    assert COMMAND_LINES.keys() | WITHOUT_INPUT == COMMANDS.keys()


@pytest.mark.parametrize("line", [line for lines in COMMAND_LINES.values() for line in lines])
def test_an_input_that_does_not_exist_is_a_usage_error(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    try:
        status = main(line.split())
    except SystemExit as error:  # settings that read the file
        status = int(str(error.code))
    shown = capsys.readouterr()
    assert status == 2
    assert "absent/input" in shown.err
    assert not any(words in shown.err for words in ("Missing from", "Unrecognized"))
    assert not shown.out
    assert not list(tmp_path.iterdir())
