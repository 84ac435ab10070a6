r"""Make the output of commands safe for any terminal.

Captions, image ids, file names and error messages are untrusted and may contain control characters, which can make a
terminal display other text, change its title or insert input. A terminal or pipe may also use an encoding that cannot
represent some characters. `safe_streams` and `accept_any_encoding` handle both for all output to stdout and stderr:
control characters and unencodable characters are written as JSON escapes (`\u001b`), so JSON output stays valid.
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
# Parts of a progress line: carriage return, the line, and the sequence that erases the rest of the line.
_PROGRESS = re.compile(r"(\r)(.*?)((?:\x1b\[K)?\n?)", re.DOTALL)
_ANY = re.compile(".", re.DOTALL)
_ENCODING_ERRORS = "vilbert.stand-in"
# ASCII replacements for the non-ASCII symbols that this package and tyro print.
_PLAIN = {
    **dict.fromkeys("─━═\u2013\u2014", "-"), **dict.fromkeys("│┃║", "|"), **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    "█": "#", "…": "...", "\u00d7": "x", "→": "->", "≥": ">=", "≤": "<=", "·": "*", "✓": "ok",
}  # fmt: skip


def one_line(text: str) -> str:
    """Return untrusted text for use within a line: line breaks, tabs and control characters are escaped."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def safe_text(text: str) -> str:
    """Return text with control characters escaped, except line feeds and tabs."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 shard` or `2,000 shards`; `plural` is required for nouns with an irregular plural."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def print_lines(lines: Iterable[str]) -> None:
    """Print lines after escaping each with `one_line`, so that line breaks in data cannot imitate output."""
    print("\n".join(map(one_line, lines)))


def text_argument(text: str) -> str:
    """Return a command-line argument; bytes that are not valid UTF-8 are decoded as Latin-1."""
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as lone surrogates
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


class SafeStream:
    """A text stream that writes `safe_text`; other attributes are those of the wrapped stream.

    Args:
        stream: The wrapped stream.
        colored: Keep ANSI color sequences, for help texts and usage errors.
    """

    def __init__(self, stream: TextIO, *, colored: bool) -> None:
        self.stream = stream
        self.colored = colored

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the wrapped stream."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text; the control characters around a progress line are the only ones that are not escaped."""
        whole = _PROGRESS.fullmatch(text)
        before, line, after = whole.groups() if whole else ("", text, "")
        parts = _COLOR.split(line) if self.colored else [line]  # texts and colors in turn
        parts[::2] = map(safe_text, parts[::2])
        self.stream.write(before + "".join(parts) + after)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write lines in order."""
        for line in lines:
            self.write(line)


@contextmanager
def safe_streams(*, colored: bool = False) -> Iterator[None]:
    """Replace stdout and stderr with safe streams inside the block."""
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
    """Make stdout and stderr escape characters that their encoding lacks, instead of raising an error."""
    codecs.register_error(_ENCODING_ERRORS, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ENCODING_ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _ANY.sub(_escape, character) for character in lacking), error.end
