"""Read untrusted JSON and YAML within bounds.

The parsers of the standard library and of PyYAML raise many kinds of errors: `RecursionError` for deep nesting,
`UnicodeDecodeError`, `OverflowError`, `KeyError` for unusual YAML tags. These functions raise `DocumentError` for all
of them, a `ValueError` whose message gives the problem and the line. The caller adds the file's name and what to do.

Duplicate keys in an object are refused; the standard parsers silently keep the last value.

A short YAML file can expand to a huge value through aliases of aliases, so the expanded size is bounded too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import yaml

MAX_DEPTH = 200
"""Maximum nesting depth of lists and mappings in a document."""
MAX_YAML_NODES = 1_000_000
"""Maximum number of scalars, lists and mappings in a YAML document after alias expansion."""
MAX_YAML_VALUE = 1_000
"""Maximum length of a YAML scalar that is not a string (number, date), because long ones are slow to convert."""
MAX_YAML_INT_KEY = 18
"""Maximum length of an integer key in a YAML document, because larger ones can be chosen to collide in their hash."""
MAX_JSON_BYTES = 16 << 30
"""Maximum size of a JSON file; the largest published annotation files have a few gigabytes."""
MAX_YAML_BYTES = 16 << 20
"""Maximum size of a YAML file; YAML is used for settings, which are small."""

Hook = Callable[[dict[str, Any]], Any]
Repeated = Callable[[dict[str, Any], str], Any]


class DocumentError(ValueError):
    """A document that is not valid JSON or YAML, or exceeds the bounds of this module."""


def read_json(
    path: Path,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    object_hook: Hook | None = None,
    repeated: Repeated | None = None,
    allow_surrogates: bool = False,
    allow_nan: bool = False,
) -> Any:
    """Return the value of a JSON file. Takes the arguments of `parse_json`.

    Raises:
        DocumentError: The content is refused.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        data = _read(file, max_bytes)
    return parse_json(
        data, object_hook=object_hook, repeated=repeated, allow_surrogates=allow_surrogates, allow_nan=allow_nan
    )


def parse_json(
    data: bytes | str,
    *,
    object_hook: Hook | None = None,
    repeated: Repeated | None = None,
    allow_surrogates: bool = False,
    allow_nan: bool = False,
) -> Any:
    r"""Return the value of one JSON document in UTF-8, with or without a byte order mark.

    Args:
        data: The document.
        object_hook: Called with each object, innermost first. Its result replaces the object.
        repeated: Called with an object that has a duplicate key (holding the last values) and with that key. Its result
            replaces the object. None refuses such a document.
        allow_surrogates: Keep lone surrogates (`"\ud83d"`, half an emoji), which cannot be written to a file or
            terminal, for a caller that handles them itself.
        allow_nan: Accept `NaN` and `Infinity`, which Python and pandas write although JSON does not have them.

    Raises:
        DocumentError: The document is not valid JSON (NaN and infinities are not), is nested deeper than `MAX_DEPTH`,
            contains a lone surrogate, or has a duplicate key in an object.
    """
    text = _decode(data) if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        decoder = _NAN_DECODER if allow_nan else _DECODER
        if object_hook is not None or repeated is not None:
            decoder = _decoder(object_hook, repeated or _refuse_repeated, allow_nan=allow_nan)
        value = decoder.decode(text)
    except RecursionError:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels") from None
    except DocumentError:
        raise
    except ValueError as error:  # JSONDecodeError, and integers of more digits than Python converts
        raise DocumentError(f"not valid JSON: {error}") from None
    _check_depth(value)
    if not allow_surrogates and _may_hold_surrogates(text):
        _refuse_surrogates(value)
    return value


def read_yaml(path: Path, *, max_bytes: int = MAX_YAML_BYTES) -> Any:
    """Return the value of a YAML file, which may be JSON.

    Raises:
        DocumentError: The content is refused.
        OSError: The file cannot be opened.
    """
    with open(path, "rb") as file:
        return parse_yaml(_read(file, max_bytes))


def parse_yaml(data: bytes | str) -> Any:
    """Return the value of one YAML document of plain mappings, lists, strings, numbers, dates and null.

    Raises:
        DocumentError: The document is not valid YAML, has a tag for a Python object, is nested deeper than `MAX_DEPTH`,
            or has more than `MAX_YAML_NODES` nodes after alias expansion.
    """
    import yaml

    text = _decode(data) if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, {}, 0)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {' '.join(str(error).split())}") from None
    except DocumentError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # PyYAML's constructors raise these for values such as `2001-99-99`, `!!int x` and a list as a key.
        raise DocumentError(f"not valid YAML: {error}") from None
    _refuse_surrogates(value)
    return value


def _read(file: IO[bytes], max_bytes: int) -> bytes:
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DocumentError(f"larger than {max_bytes:,} bytes")
    return data


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 at byte {error.start}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise DocumentError(f"not valid JSON: {name} is not valid JSON")


def _refuse_repeated(_values: dict[str, Any], key: str) -> NoReturn:
    raise DocumentError(f"key {key!r:.80} appears twice in one object; remove one")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these keys and values. An `object_pairs_hook` that refuses duplicate keys."""
    values = dict(pairs)
    return values if len(values) == len(pairs) else _refuse_repeated(values, _first_repeated(pairs))


def _first_repeated(pairs: Sequence[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    raise ValueError("no key appears twice")


def _decoder(object_hook: Hook | None, repeated: Repeated, *, allow_nan: bool) -> json.JSONDecoder:
    def make(pairs: list[tuple[str, Any]]) -> Any:
        values = dict(pairs)
        if len(values) == len(pairs):
            return values
        return repeated(values, _first_repeated(pairs))

    return json.JSONDecoder(
        object_pairs_hook=make if object_hook is None else lambda pairs: object_hook(make(pairs)),
        parse_constant=None if allow_nan else _refuse_constant,
    )


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
_NAN_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _check_depth(value: Any) -> None:
    """Refuse a value nested deeper than `MAX_DEPTH`, so that recursive code can walk it. Checks level by level."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole)
            if isinstance(part, (dict, list))
        ]
    if level:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _may_hold_surrogates(text: str) -> bool:
    return _SURROGATE_ESCAPE.search(text) is not None or (not text.isascii() and _SURROGATE.search(text) is not None)


def _refuse_surrogates(value: Any) -> None:
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str) and not part.isascii() and _SURROGATE.search(part):
            raise DocumentError(f"contains a lone surrogate in {part[:60]!r}")
        if isinstance(part, dict):
            pending += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            pending += part


def _refuse_repeated_scalars(mapping: yaml.MappingNode) -> None:
    import yaml

    keys = [(f"{key.tag} {key.value}", key.value) for key, _ in mapping.value if isinstance(key, yaml.ScalarNode)]
    if len({tagged for tagged, _ in keys}) < len(keys):
        key = _first_repeated(keys).partition(" ")[2]
        line = mapping.start_mark.line + 1
        raise DocumentError(f"key {key!r:.80} appears twice in the mapping that starts at line {line}; remove one")


def _expanded_size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Return how many nodes `node` expands to. Raise DocumentError beyond the bounds or if an alias is recursive."""
    import yaml

    known = sizes.get(id(node))
    if known is not None:
        if known < 0:
            raise DocumentError("an alias refers to the value that it is part of")
        return known
    if depth > MAX_DEPTH:
        raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
    sizes[id(node)] = -1
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
        _refuse_repeated_scalars(node)
        for key, _value in node.value:
            if key.tag == "tag:yaml.org,2002:int" and len(key.value) > MAX_YAML_INT_KEY:
                raise DocumentError(f"an integer of {len(key.value):,} characters is a key")
    elif node.tag != "tag:yaml.org,2002:str" and len(node.value) > MAX_YAML_VALUE:
        raise DocumentError(f"a value of {len(node.value):,} characters is not a text")
    size = 1 + sum(_expanded_size(part, sizes, depth + 1) for part in parts)
    if size > MAX_YAML_NODES:
        raise DocumentError(f"expands to more than {MAX_YAML_NODES:,} values")
    sizes[id(node)] = size
    return size
