r"""What the command prints, safe for any terminal.

Captions, image ids, file names and error messages come from outside and may hold control characters, with which a
terminal can be made to show other text, change its title or type for its user. And a terminal or a pipe may have an
encoding that lacks some characters. `safe_streams` and `accept_any_encoding` make both harmless for everything that is
written to stdout and stderr: control characters and characters that the encoding lacks are written as JSON's escapes
(`\u001b`), so that JSON stays valid JSON.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_LINE_BREAKS = "\n\t\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029"
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
_DIRECTION = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNSAFE = re.compile(f"[{_CONTROL}{_DIRECTION}\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(f"[{_LINE_BREAKS}{_CONTROL}{_DIRECTION}\ud800-\udfff]")
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
# What a progress line is drawn with: back to the line's start, the line, and the rest of it erased.
_PROGRESS = re.compile(r"(\r)(.*?)((?:\x1b\[K)?\n?)", re.DOTALL)
_ANY = re.compile(".", re.DOTALL)
_ENCODING_ERRORS = "vilbert.stand-in"
# What this package and tyro print beside letters, in ASCII.
_PLAIN = {
    **dict.fromkeys("─━═\u2013\u2014", "-"), **dict.fromkeys("│┃║", "|"), **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    "█": "#", "…": "...", "\u00d7": "x", "→": "->", "≥": ">=", "≤": "<=", "·": "*", "✓": "ok",
}  # fmt: skip


def one_line(text: str) -> str:
    """Return text from outside for a place within a line: line breaks, tabs and control characters escaped."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def safe_text(text: str) -> str:
    """Return text with its control characters escaped, all but line feeds and tabs."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 shard`, `2,000 shards`; plural: of a noun to which it is not enough to add an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, each of them `one_line`: a caption with a line feed cannot pass for a line of the command's own."""
    print("\n".join(map(one_line, lines)))


def text_argument(text: str) -> str:
    """Return a text of the command line, with bytes that are not UTF-8 taken as Latin-1."""
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as lone surrogates
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


class SafeStream:
    """A text stream that writes `safe_text`; all else is the stream's own.

    colored: let colors and weights through, of a help text or a usage error.
    """

    def __init__(self, stream: TextIO, *, colored: bool) -> None:
        self.stream = stream
        self.colored = colored

    def __getattr__(self, name: str) -> Any:
        """Return the stream's own attribute."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; of control characters only those of a progress line, around it, reach the stream as they are."""
        whole = _PROGRESS.fullmatch(text)
        before, line, after = whole.groups() if whole else ("", text, "")
        parts = _COLOR.split(line) if self.colored else [line]  # texts and colors in turn
        parts[::2] = map(safe_text, parts[::2])
        self.stream.write(before + "".join(parts) + after)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)


@contextmanager
def safe_streams(*, colored: bool = False) -> Iterator[None]:
    """Let stdout and stderr be safe streams in the block."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_safe(stream, colored) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def _safe(stream: TextIO, colored: bool) -> TextIO:
    within = stream.stream if isinstance(stream, SafeStream) else stream
    return cast(TextIO, SafeStream(within, colored=colored))


def accept_any_encoding() -> None:
    """Let stdout and stderr write a stand-in for each character that their encoding lacks, in place of an error."""
    codecs.register_error(_ENCODING_ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ENCODING_ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _ANY.sub(_escape, character) for character in lacking), error.end
