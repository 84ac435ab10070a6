"""What reaches a terminal: no control characters from outside, whatever its encoding; and what comes from one."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.terminal import SafeStream, counted, one_line, print_lines, safe_streams, safe_text, text_argument

HOSTILE = "a \x1b]0;title\x07 \x9b31m \u202egpj.exe \x08\x08\r\x00\x7f\ud83d"
GOLDEN = Path(__file__).parent / "shards" / "golden" / "tar"


def written(text: str, *, colored: bool = False) -> str:
    stream = io.StringIO()
    SafeStream(stream, colored=colored).write(text)
    return stream.getvalue()


@given(st.text())
def test_no_control_character_is_left_and_nothing_else_changes(text: str):
    safe = safe_text(text)
    assert all(character.isprintable() or character in "\n\t" or ord(character) >= 0xA0 for character in safe)
    if text.isprintable():
        assert safe == one_line(text) == text
    assert len(one_line(text).splitlines()) <= 1


def test_a_hostile_caption_is_shown_with_escapes():
    assert one_line(HOSTILE) == (
        "a \\u001b]0;title\\u0007 \\u009b31m \\u202egpj.exe \\u0008\\u0008\\u000d\\u0000\\u007f\\ud83d"
    )
    assert one_line("one\ntwo\u2028three") == "one\\u000atwo\\u2028three"


@given(st.text())
def test_escaped_json_has_the_same_value(text: str):
    document = json.dumps(text, ensure_ascii=False)
    assert json.loads(safe_text(document)) == text


def test_a_progress_line_is_drawn_and_its_content_escaped():
    assert written("\rextract: 3 of 9 \x1b[31m\033[K") == "\rextract: 3 of 9 \\u001b[31m\033[K"
    assert written("vilbert: bad\rgood\n") == "vilbert: bad\\u000dgood\n"


def test_colors_are_for_help_alone():
    assert written("\x1b[1musage\x1b[0m \x1b]0;x\x07", colored=True) == "\x1b[1musage\x1b[0m \\u001b]0;x\\u0007"
    assert written("\x1b[1musage") == "\\u001b[1musage"


def test_one_thing_is_singular():
    assert [counted(number, "shard") for number in (0, 1, 2000)] == ["0 shards", "1 shard", "2,000 shards"]
    assert [counted(number, "box", "boxes") for number in (1, 2)] == ["1 box", "2 boxes"]


def test_streams_are_restored(capsys: pytest.CaptureFixture[str]):
    before = sys.stdout, sys.stderr
    with safe_streams():
        print("\x1b")
        print("\x1b", file=sys.stderr)
        print_lines(["a\nb", "c"])
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("\\u001b\na\\u000ab\nc\n", "\\u001b\n")


def test_bytes_of_a_command_line_that_are_not_utf8_are_latin1():
    assert text_argument(b"caf\xe9 colour".decode("utf-8", "surrogateescape")) == "café colour"
    assert text_argument("café colour") == "café colour"


def run(*arguments: str | bytes, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vilbert.pipeline.cli", *arguments],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("arguments", [["stats", str(GOLDEN)], ["inspect", f"{GOLDEN}:1"], ["stats", "--help"]])
def test_any_encoding_of_the_terminal_will_do(arguments: list[str], encoding: str):
    done = run(*arguments, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)


def test_json_stays_json_in_any_encoding():
    plain, ascii_only = (run("inspect", f"{GOLDEN}:1", "--json", encoding=encoding) for encoding in ("utf-8", "ascii"))
    assert json.loads(plain.stdout) == json.loads(ascii_only.stdout)


def test_a_hostile_file_name_is_escaped_in_an_error(tmp_path: Path):
    done = run(
        "manifest", os.fsencode(tmp_path) + b"/\x1b]0;pwned\x07\xff.json", "--output", str(tmp_path / "m.parquet")
    )
    assert done.returncode == 2
    assert b"no such file" in done.stderr
    assert not {0x1B, 0x07, 0xFF} & set(done.stderr)


def test_help_is_colored_on_a_terminal_only():
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "vilbert.pipeline.cli", "stats", "--help"],
        stdout=follower,
        stderr=follower,
        env={name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert child.wait(60) == 0
    assert b"\x1b[" in shown
    assert b"\\u001b" not in shown
    assert b"\x1b" not in run("stats", "--help").stdout
