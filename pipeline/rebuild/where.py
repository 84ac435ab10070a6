"""Select samples by an expression over their metadata: `width >= 200 and n_boxes > 10 and 'dog' in captions`.

Python's own parser reads the expression, and each node of the tree is checked against a short list before anything is
evaluated. Nothing is ever passed to `eval`: an expression can compare, count and combine values, and nothing else.

    columns          fields of a sample's metadata: width, height, split, image_id, captions, …; n_boxes is num_boxes
    fields           NAME.FIELD, a field of a column that holds objects: quality.aesthetic > 5
    values           numbers, 'text', True, False, None, lists of them in [ ]
    comparisons      ==  !=  <  <=  >  >=  in  not in; they can be chained: 10 < n_boxes <= 36
    combinations     and  or  not  +  -  *  /  //  %  ( )
    functions        len(x)  lower(x)  startswith(x, 'text')  endswith(x, 'text')  has('column')  has('column.field')

`'dog' in captions` is true if any caption contains the text; `split in ['train', 'val']` compares with each value.
A column that a sample does not have is an error, unless `has('column') and …` stands before it.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vilbert.plugins import did_you_mean

MAX_CHARACTERS = 4096
MAX_NODES = 500
MAX_DEPTH = 40
MAX_NUMBER = 2**63
"""Largest integer of an expression or of a result."""
ALIASES = {"n_boxes": "num_boxes"}
"""Aliases of columns."""

Row = Mapping[str, Any]
_Evaluate = Callable[[Row], Any]


class WhereError(ValueError):
    """An expression that is refused or has no value for a sample; the message names the part and the reason."""


class Where(NamedTuple):
    """A checked expression."""

    text: str
    """The text of the expression."""
    columns: frozenset[str]
    """Columns that it reads."""
    evaluate: _Evaluate
    """Return the value for the metadata of a sample."""

    def selects(self, row: Row) -> bool:
        """Return whether the expression is true for a sample.

        Args:
            row: The sample's metadata, the object of KEY.json.

        Raises:
            WhereError: The sample lacks a column, or a value is of another type than the expression needs.
        """
        try:
            value = self.evaluate(row)
        except RecursionError:
            raise WhereError(f"--where {self.text!r}: is nested too deeply") from None
        if not isinstance(value, bool):
            raise WhereError(
                f"--where {self.text!r}: is {value!r:.60}, not true or false; compare it with something, as "
                "`width >= 200`"
            )
        return value


def parse_where(text: str) -> Where:
    """Parse and check an expression.

    Raises:
        WhereError: It is not an expression, or contains something that is not in the list above.
    """
    if len(text) > MAX_CHARACTERS:
        raise WhereError(
            f"--where: has {len(text):,} characters, at most {MAX_CHARACTERS:,}; --ids takes a file of ids"
        )
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise WhereError(
            f"--where {text!r}: {error.msg}{where}; an example: width >= 200 and 'dog' in captions"
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise WhereError(f"--where {text!r:.80}: cannot be parsed ({error or 'nested too deeply'})") from None
    compiler = _Compiler(text)
    evaluate = compiler.compile(tree.body, 0)
    return Where(text, frozenset(compiler.columns), evaluate)


class _Compiler:
    """Turns a tree into a function, node by node."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes = 0
        self.columns: set[str] = set()

    def compile(self, node: ast.AST, depth: int) -> _Evaluate:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise WhereError(
                f"--where {self._text!r:.80}: is too large; at most {MAX_NODES} parts, nested {MAX_DEPTH} deep"
            )
        build = _BUILDERS.get(type(node))
        if build is None:
            raise self.refused(node)
        return build(self, node, depth + 1)

    def refused(self, node: ast.AST, why: str = "is not allowed in an expression") -> WhereError:
        part = ast.get_source_segment(self._text.strip(), node) or type(node).__name__
        return WhereError(f"--where {self._text!r:.200}: {part!r:.60} {why}")


def _constant(compiler: _Compiler, node: ast.Constant, depth: int) -> _Evaluate:
    value = node.value
    if not isinstance(value, str | int | float | bool | None):
        raise compiler.refused(node)
    if type(value) is int and value >= MAX_NUMBER:
        raise compiler.refused(node, "is too large")
    return lambda row: value


def _name(compiler: _Compiler, node: ast.Name, depth: int) -> _Evaluate:
    column = ALIASES.get(node.id, node.id)
    compiler.columns.add(column)

    def read(row: Row) -> Any:
        try:
            return row[column]
        except KeyError:
            raise _absent(row, row, "", f"column {node.id!r}", node.id) from None

    return read


def _field(compiler: _Compiler, node: ast.Attribute, depth: int) -> _Evaluate:
    """Read NAME.FIELD. Nothing is ever looked up as an attribute of a Python object, only as a key of a mapping."""
    name = node.value
    if not isinstance(name, ast.Name) or node.attr.startswith("_"):
        raise compiler.refused(node)
    column = _name(compiler, name, depth)

    def read(row: Row) -> Any:
        value = column(row)
        if not isinstance(value, Mapping):
            raise compiler.refused(name, f"is {value!r:.60}, which has no fields")
        try:
            return value[node.attr]
        except KeyError:
            part = f"{name.id!r} of "
            raise _absent(row, value, part, f"field {node.attr!r}", f"{name.id}.{node.attr}") from None

    return read


def _absent(row: Row, known: Mapping[str, Any], part: str, what: str, name: str) -> WhereError:
    """Return the error for a name that an image does not have; known: the names that exist there."""
    near, names = did_you_mean(name.rpartition(".")[2], known), ", ".join(sorted(known))
    return WhereError(
        f"--where: {part}image {row.get('image_id')!r:.80} has no {what}{near}; it has {names:.300}. "
        f"If only some images have it, write: has({name!r}) and …"
    )


def _list(compiler: _Compiler, node: ast.List | ast.Tuple, depth: int) -> _Evaluate:
    items = [compiler.compile(item, depth) for item in node.elts]
    return lambda row: _Literals(item(row) for item in items)


class _Literals(tuple[Any, ...]):
    """A list literal in the expression: `in` compares with each item as a whole."""


def _both(compiler: _Compiler, node: ast.BoolOp, depth: int) -> _Evaluate:
    parts = [(compiler.compile(value, depth), value) for value in node.values]
    stops_at = isinstance(node.op, ast.Or)

    def combine(row: Row) -> bool:
        for part, source in parts:
            value = part(row)
            if not isinstance(value, bool):
                raise compiler.refused(source, f"is {value!r:.60}, not true or false")
            if value is stops_at:
                return stops_at
        return not stops_at

    return combine


def _unary(compiler: _Compiler, node: ast.UnaryOp, depth: int) -> _Evaluate:
    operand = compiler.compile(node.operand, depth)

    def negate(row: Row) -> Any:
        value = operand(row)
        if isinstance(node.op, ast.Not):
            if not isinstance(value, bool):
                raise compiler.refused(node.operand, f"is {value!r:.60}, not true or false")
            return not value
        return -_number(compiler, node.operand, value)

    if not isinstance(node.op, ast.Not | ast.USub):
        raise compiler.refused(node)
    return negate


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _arithmetic(compiler: _Compiler, node: ast.BinOp, depth: int) -> _Evaluate:
    compute = _ARITHMETIC.get(type(node.op))
    if compute is None:
        raise compiler.refused(node)
    left, right = compiler.compile(node.left, depth), compiler.compile(node.right, depth)

    def evaluate(row: Row) -> Any:
        first, second = _number(compiler, node.left, left(row)), _number(compiler, node.right, right(row))
        try:
            return _number(compiler, node, compute(first, second))
        except (ZeroDivisionError, OverflowError) as error:
            raise compiler.refused(node, f"has no value for image {row.get('image_id')!r:.80} ({error})") from None

    return evaluate


def _number(compiler: _Compiler, node: ast.AST, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise compiler.refused(node, f"is {value!r:.60}, expected a number")
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        raise compiler.refused(node, "is too large")
    return value


_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _compare(compiler: _Compiler, node: ast.Compare, depth: int) -> _Evaluate:
    sources = [node.left, *node.comparators]
    values = [compiler.compile(source, depth) for source in sources]
    if any(type(symbol) not in (*_ORDER, ast.Eq, ast.NotEq, ast.In, ast.NotIn) for symbol in node.ops):
        raise compiler.refused(node)

    def evaluate(row: Row) -> bool:
        left = values[0](row)
        for symbol, source, value in zip(node.ops, sources[1:], values[1:], strict=True):
            right = value(row)
            if not _holds(compiler, symbol, left, right, source):
                return False
            left = right
        return True

    return evaluate


def _holds(compiler: _Compiler, symbol: ast.cmpop, left: Any, right: Any, source: ast.AST) -> bool:
    if isinstance(symbol, ast.Eq | ast.NotEq):
        return bool(left == right) == isinstance(symbol, ast.Eq)
    if isinstance(symbol, ast.In | ast.NotIn):
        return _contains(compiler, left, right, source) == isinstance(symbol, ast.In)
    texts = isinstance(left, str) and isinstance(right, str)
    if not texts:
        for value in (left, right):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise compiler.refused(
                    source, f"compares {left!r:.40} with {right!r:.40}: expected two numbers or texts"
                )
    return _ORDER[type(symbol)](left, right)


def _contains(compiler: _Compiler, item: Any, container: Any, source: ast.AST) -> bool:
    """Return whether a text contains another, a list of texts has one that contains it, or a list has the value."""
    if isinstance(container, _Literals):
        return item in container
    if isinstance(container, str) and isinstance(item, str):
        return item in container
    if isinstance(container, list):
        if isinstance(item, str):
            return any(item in value if isinstance(value, str) else item == value for value in container)
        return item in container
    raise compiler.refused(source, f"is {container!r:.60}: `in` needs a list, or a text in a text")


def _call(compiler: _Compiler, node: ast.Call, depth: int) -> _Evaluate:
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if name not in _FUNCTIONS or node.keywords or len(node.args) != _FUNCTIONS[name][0]:
        raise compiler.refused(node, f"is not allowed; functions are {', '.join(_FUNCTIONS)}, as in lower(split)")
    if name == "has":
        argument = node.args[0]
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise compiler.refused(node, "needs the column's name in quotes")
        column = ALIASES.get(argument.value, argument.value)
        return lambda row: _has(row, column)
    arguments = [compiler.compile(argument, depth) for argument in node.args]
    function = _FUNCTIONS[name][1]

    def evaluate(row: Row) -> Any:
        given = [argument(row) for argument in arguments]
        if not all(isinstance(value, str) or (name == "len" and isinstance(value, list | tuple)) for value in given):
            raise compiler.refused(node, f"is given {', '.join(f'{value!r:.40}' for value in given)}, expected text")
        return function(*given)

    return evaluate


def _has(row: Row, column: str) -> bool:
    """Return whether a sample has a column or, if the name has a dot and is not a column, the field after the dot."""
    name, _, field = column.partition(".")
    return column in row or (bool(field) and name in row and isinstance(row[name], Mapping) and field in row[name])


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "len": (1, len),
    "lower": (1, str.lower),
    "startswith": (2, str.startswith),
    "endswith": (2, str.endswith),
    "has": (1, bool),
}
"""By name, the number of arguments and the function."""

_BUILDERS: dict[type[ast.AST], Callable[[_Compiler, Any, int], _Evaluate]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _field,
    ast.List: _list,
    ast.Tuple: _list,
    ast.BoolOp: _both,
    ast.UnaryOp: _unary,
    ast.BinOp: _arithmetic,
    ast.Compare: _compare,
    ast.Call: _call,
}
