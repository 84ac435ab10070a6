"""A command-line option for a folder's path or URL; parsing a URL as a path would lose one of its slashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from vilbert.pipeline.shards.location.folder import Place, parse_place
from vilbert.settings import Validator

PlaceOption = Annotated[
    Place,
    Validator("wrap", lambda value, check: parse_place(value) if isinstance(value, str) else check(value)),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="DIR|URL",
        instance_from_str=lambda words: parse_place(words[0]),
        is_instance=lambda value: isinstance(value, Path | str),
        str_from_instance=lambda place: [str(place)],
    ),
]
