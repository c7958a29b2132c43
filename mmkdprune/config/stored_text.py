"""Read the config text that MMEngine stores in every checkpoint, without running it.

``Config.fromstring`` executes its text, and a checkpoint may come from anywhere. The stored text is a flat list of
``name = value`` with dictionaries, sequences and constants, which :mod:`ast` reads just as well.
"""

import ast
import math
from collections.abc import Collection
from typing import Any

_NAMES = {"inf": math.inf, "nan": math.nan}


def read_config_text(text: str, names: Collection[str]) -> dict[str, Any]:
    """Values of some top-level names of a stored config.

    Args:
        text: ``checkpoint['meta']['cfg']``.
        names: The names wanted; absent ones are left out.

    Returns:
        Plain Python values.

    Raises:
        ValueError: The text is no stored config, or a wanted value is more than plain data.
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise ValueError(f"the checkpoint's config text cannot be read: {error}") from None
    values = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in names:
                values[name] = _value(statement.value)
    return values


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Set(elts=items):
            return {_value(item) for item in items}
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {keyword.arg: _value(keyword.value) for keyword in keywords}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as mapping], keywords=[]):
            return _value(mapping)
    raise ValueError(f"the checkpoint's config text holds more than plain data: {ast.unparse(node)[:80]}")
