"""Settings as dataclasses that pydantic validates, with constraints on the fields and errors that name the option.

    @validated
    class ShapesSettings:
        scenes: Annotated[int, Interval(ge=10, le=10_000_000)] = 1000
        \"\"\"Number of images.\"\"\"

`ShapesSettings(scenes=3)` and `dataclasses.replace(settings, scenes=3)` raise SettingsError, `--scenes 3: must be at
least 10`. Instances are frozen, can be pickled, and work with `dataclasses.fields` and `asdict`. They are dataclasses
rather than BaseModel because several commands have an option `json`, which is a method of BaseModel. pydantic is
imported when the first value is validated, so `--help` does not import it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_type_hints,
)

from annotated_types import Ge, Gt, Interval

if TYPE_CHECKING:
    import pydantic

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
ShardSize = Annotated[int, Interval(ge=1, lt=2**53)]
"""Number of rows in a shard; dataset.json does not allow larger counts."""
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Fraction = Annotated[float, Interval(gt=0, lt=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**63)]


class SettingsError(ValueError):
    """An invalid setting. The message names the option, its value and the reason."""


@dataclasses.dataclass(frozen=True)
class Validator:
    """A validator function of a field, like pydantic's BeforeValidator, AfterValidator and WrapValidator."""

    kind: Literal["before", "after", "wrap"]
    """When it is called: before validation, after it, or around it (with the value and the validation handler)."""
    function: Callable[..., Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        schema_of = getattr(core_schema, f"no_info_{self.kind}_validator_function")
        return schema_of(self.function, handler(source))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
def validated(cls: type[T]) -> type[T]:
    """Turn a settings class into a frozen, keyword-only dataclass whose values are validated."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}

    @functools.wraps(made.__init__)
    def init(self: Any, *args: Any, **values: Any) -> None:
        from pydantic import ValidationError
        from pydantic_core import ArgsKwargs

        try:
            adapter_of(made).validator.validate_python(ArgsKwargs(args, values), self_instance=self)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_option_problem, error.errors(include_url=False)))) from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


@functools.cache
def adapter_of(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Return the TypeAdapter that validates values of a type, created on first use."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _option_problem(error: Any) -> str:
    """Return the message for an invalid value from Python or the command line: `--scenes 3: must be at least 10`."""
    if not error["loc"]:
        return reason(error)  # a check of several fields names the options itself
    name = f"--{str(error['loc'][0]).replace('_', '-')}"
    value = error["input"]
    if isinstance(value, tuple | list):
        shown = " ".join(map(str, value))
    else:
        shown = "" if error["type"].startswith(("missing", "unexpected")) else f"{value}"
    return f"{name}{shown and f' {shown:.200}'}: {reason(error)}"


def reason(error: Any) -> str:
    """Return why pydantic refused a value, worded for the user of a command-line option."""
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "greater_than_equal":
            return f"must be at least {_plain(context['ge'])}"
        case "greater_than":
            return f"must be above {_plain(context['gt'])}"
        case "less_than_equal":
            return f"must be at most {_plain(context['le'])}"
        case "less_than":
            return f"must be below {_plain(context['lt'])}"
        case "finite_number":
            return "must be a finite number"
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), '')}"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type":
            return "must be a text"
        case "path_type":
            return "must be a path"
        case "dict_type" | "dataclass_type":
            return "must be an object"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "unexpected_keyword_argument":
            return "no such setting"
        case "missing_argument" | "missing_keyword_only_argument":
            return "is required"
    return str(error["msg"])


def _plain(number: float) -> float:
    """Return a bound without a zero fraction: 1 for 1.0."""
    return int(number) if number == int(number) else number


class Option(NamedTuple):
    """An option of a command: a field of its settings or of nested settings."""

    path: tuple[str, ...]
    """Names of the fields that lead to the option, ending with its own name."""
    type: Any
    """Its type with its constraints."""


def options_of(settings_class: type) -> Mapping[str, Option]:
    """Return a command's options by name (with underscores), without positional arguments and hidden fields."""
    return _options_of(settings_class)


@functools.cache
def _options_of(settings_class: type) -> Mapping[str, Option]:
    from tyro.conf import Positional, Suppress

    others = {mark for kind in (Positional[int], Suppress[int]) for mark in get_args(kind)[1:]}
    found: dict[str, Option] = {}
    hints = get_type_hints(settings_class, include_extras=True)
    for name in [field.name for field in dataclasses.fields(settings_class)]:
        kind = hints[name]
        if _is_settings(kind):
            inner = options_of(kind).items()
            found |= {option: Option((name, *one.path), one.type) for option, one in inner}
        elif others.isdisjoint(get_args(kind)[1:]):
            found[name] = Option((name,), kind)
    return found


def default_instance(settings_class: type[T], values: Mapping[str, Any], *, fixed: Mapping[str, Any]) -> T:
    """Return an instance that holds the defaults of a command line. It is not validated as a whole.

    Args:
        settings_class: The settings class of a command.
        values: Valid values by option name (with underscores), which replace the defaults of the class.
        fixed: Values of hidden fields of `settings_class` itself.

    Returns:
        An instance in which required fields without a value are `tyro.MISSING`.
    """
    from tyro import MISSING

    options = options_of(settings_class)
    hints = get_type_hints(settings_class, include_extras=True)
    made = object.__new__(settings_class)
    for field in dataclasses.fields(settings_class):  # type: ignore[arg-type]  # a dataclass
        value: Any
        if field.name in fixed:
            value = fixed[field.name]
        elif _is_settings(hints[field.name]):
            value = default_instance(hints[field.name], values, fixed={})
        elif field.name in options and field.name in values:
            value = values[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = MISSING
        object.__setattr__(made, field.name, value)
    return made


def file_value(kind: Any, value: Any, *, numbers_as_text: bool = True) -> Any:
    """Convert a value of a JSON or YAML file to the type of a field.

    Types are strict: a string is not accepted as an integer, nor a number as a boolean. There are three exceptions: a
    string such as 1e-4 may stand for a number (YAML 1.1 reads it as a string), a single value for a list of one
    element, and with `numbers_as_text` a number for a string.

    Raises:
        SettingsError: The value does not have this type. The message gives the reason and the value.
    """
    from pydantic import ValidationError

    adapter = adapter_of(kind)
    problem: ValidationError | None = None
    for attempt in _readings(value, numbers_as_text):
        try:
            return adapter.validate_json(json.dumps(attempt, default=str), strict=True)
        except ValidationError as error:
            problem = problem or error
    assert problem is not None
    first = problem.errors(include_url=False)[0]
    shown = value if not first["loc"] else first["input"]
    raise SettingsError(f"{reason(first)}, is {json.dumps(shown, default=str):.200}")


def _readings(value: Any, numbers_as_text: bool) -> Iterable[Any]:
    """Yield a value of a file, then its alternative interpretations."""
    yield value
    parts = value if isinstance(value, list) else [value]
    if all(isinstance(part, str) and ("e" in part or "E" in part) for part in parts):
        try:
            numbers = [float(part) for part in parts]
            yield numbers if isinstance(value, list) else numbers[0]
        except ValueError:
            pass
    if numbers_as_text:
        parts = [str(part) if isinstance(part, int | float) and not isinstance(part, bool) else part for part in parts]
        yield parts if isinstance(value, list) else parts[0]
    if not isinstance(value, list | dict) and value is not None:
        yield [value]
        yield parts


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)
