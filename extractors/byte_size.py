"""Sizes as people write them on a command line: 512MB, 1.5 GiB, 1048576."""

from __future__ import annotations

import re
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from vilbert.settings import Validator

_UNITS: dict[str, int] = {"": 1, "B": 1} | {
    f"{prefix}{suffix}B": base**power
    for suffix, base in (("", 1000), ("i", 1024))
    for power, prefix in enumerate("KMGT", 1)
}


def parse_size(text: str) -> int:
    """Return a number of bytes: kB, MB, GB, TB count in thousands, KiB, MiB, GiB, TiB in 1024s. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    units = {unit.lower(): factor for unit, factor in _UNITS.items()}
    if not match or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not a size: give bytes, or a number with a unit such as 512MB or 1GiB")
    return round(float(match[1]) * units[match[2].lower()])


ByteSize = Annotated[
    int,
    Validator("before", lambda value: parse_size(value) if isinstance(value, str) else value),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIZE",
        instance_from_str=lambda arguments: parse_size(arguments[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    ),
]
