"""The demo: its commands are ones that anybody can give, and it runs to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, parse
from pipeline.demo import DemoSettings, commands, demo


def test_its_commands_are_those_of_the_command_line(tmp_path: Path) -> None:
    for name, *arguments in commands(tmp_path, 10):
        assert name in COMMANDS
        parse(name, arguments)


@pytest.mark.ray
@pytest.mark.slow
def test_it_ends_with_a_trained_model_and_says_what_happened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    assert demo(DemoSettings(output=output, scenes=20)) == 0
    for made in ("features/dataset.json", "regions.png", "pretrained/report.html", "pretrained/final/config.json"):
        assert (output / made).stat().st_size > 0
    said = capsys.readouterr().out.splitlines()
    assert any("belongs to a picture" in line for line in said[-12:])


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert demo(DemoSettings(output=tmp_path, scenes=20)) == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"
