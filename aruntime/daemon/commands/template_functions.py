"""The functions a ``--format`` template can call: Go's builtins and docker's.

Each takes and returns plain values. A wrong argument raises ValueError with the reason, or
TypeError when the number of arguments is wrong; the evaluator adds the position.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from aruntime.daemon.commands.values import quote

_VERB = re.compile(r"%([-+# 0]*)([0-9]{1,4})?(?:\.([0-9]{1,4}))?([a-zA-Z%])")
_MAX_PAD = 10_000


def is_true(value: Any) -> bool:
    """Go's truth: not zero, not empty, not nil."""
    return bool(value)


def kind_of(value: Any) -> str:
    """Name a value's type as Go would."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "bool"
    for kind, types in (("int", int), ("float64", float), ("string", str), ("map", Mapping)):
        if isinstance(value, types):
            return kind
    return "list"


def print_value(value: Any, *, inner: bool = False) -> str:
    """Write a value as Go's ``%v``: ``true``, ``[a b]``, ``map[k:v]``, ``<no value>``."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>" if inner else "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _print_float(value)
    if isinstance(value, Mapping):
        pairs = (f"{print_value(k)}:{print_value(v, inner=True)}" for k, v in sorted(value.items()))
        return f"map[{' '.join(pairs)}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(print_value(v, inner=True) for v in value)}]"
    return str(value)


def _print_float(value: float) -> str:
    """Write a float as Go's ``%v``: shortest digits, exponent from 1e21 and below 1e-4."""
    if value == int(value) and abs(value) < 1e21 if abs(value) != float("inf") else False:
        return str(int(value))
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent}" if exponent else text


def print_operands(*values: Any) -> str:
    """Go's Sprint: a space between operands when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += print_value(value, inner=True)
    return out


def print_line(*values: Any) -> str:
    """Go's Sprintln: spaces between all operands, a line feed at the end."""
    return " ".join(print_value(value, inner=True) for value in values) + "\n"


def print_format(pattern: Any, *values: Any) -> str:
    """Go's Sprintf for the verbs v s d q t f e g x X o b c and %."""
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        options, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, rest.pop(0), options, precision)
        if width is None:
            return text
        if "-" in options:
            return text.ljust(int(width))
        if "0" in options and verb in "dfegxXob":
            sign = text[:1] if text[:1] in "+-" else ""
            return sign + text[len(sign) :].rjust(int(width) - len(sign), "0")
        return text.rjust(int(width))

    out = _VERB.sub(one, _string(pattern))
    if rest:
        extra = ", ".join(f"{kind_of(v)}={print_value(v)}" for v in rest)
        out += f"%!(EXTRA {extra})"
    return out


def _verb(verb: str, value: Any, options: str, precision: str | None) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    plus = "+" if "+" in options else ""
    if verb == "v":
        return print_value(value, inner=True)
    if verb == "s" and isinstance(value, (str, list, tuple, Mapping)):
        text = print_value(value, inner=True)
        return text if precision is None else text[: int(precision)]
    if verb == "q" and isinstance(value, str):
        return quote(value)
    if verb == "t" and isinstance(value, bool):
        return print_value(value)
    if verb in "fe" and number:
        return format(float(value), f"{plus}.{precision or 6}{verb}")
    if verb == "g" and number:
        return format(float(value), f"{plus}.{precision}g") if precision else print_value(value)
    whole = number and value == int(value)
    if verb in "dxXob" and whole:
        return format(int(value), f"{plus}{'#' if '#' in options and verb in 'xX' else ''}{verb}")
    if verb in "xX" and isinstance(value, str):
        return value.encode().hex() if verb == "x" else value.encode().hex().upper()
    if verb == "c" and whole and 0 <= value < 0x110000:
        return chr(int(value))
    return f"%!{verb}({kind_of(value)}={print_value(value, inner=True)})"


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, found {kind_of(value)}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"expected an integer, found {kind_of(value)}")
    return int(value)


def _json(value: Any) -> str:
    """Write compact JSON; the methods of a row are no part of it."""
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if not callable(item)}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            default = "" if all(isinstance(v, str) for v in value.values()) else None
            value = value.get(_string(key), default)
        elif isinstance(value, (list, tuple, str)):
            index = _whole(key)
            if not 0 <= index < len(value):
                raise ValueError(f"index out of range: {index}")
            value = value[index]
        else:
            raise ValueError(f"can't index item of type {kind_of(value)}")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, (list, tuple, str)) or len(bounds) > 2:
        raise ValueError(f"can't slice item of type {kind_of(value)}")
    start = _whole(bounds[0]) if bounds else 0
    stop = _whole(bounds[1]) if len(bounds) > 1 else len(value)
    if not 0 <= start <= stop <= len(value):
        raise ValueError(f"index out of range: {start}:{stop}")
    return value[start:stop]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (Mapping, list, tuple)):
        return len(value)
    raise ValueError(f"len of type {kind_of(value)}")


def _same(left: Any, right: Any) -> bool:
    kinds = {"float64": "int"}
    a, b = (kinds.get(kind_of(v), kind_of(v)) for v in (left, right))
    if a != b and "nil" not in (a, b):
        raise ValueError(f"incompatible types for comparison: {kind_of(left)}, {kind_of(right)}")
    return bool(left == right)


def _less(left: Any, right: Any) -> bool:
    if isinstance(left, (bool, Mapping, list)) or left is None:
        raise ValueError(f"type {kind_of(left)} has no order")
    return not _same(left, right) and bool(left < right)


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _join(values: Any, separator: Any) -> str:
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"expected a list, found {kind_of(values)}")
    return _string(separator).join(print_value(value) for value in values)


def _split(text: Any, separator: Any) -> list[str]:
    return _string(text).split(_string(separator)) if separator else list(_string(text))


def _pad(text: Any, before: Any, after: Any) -> str:
    if max(_whole(before), _whole(after)) > _MAX_PAD:
        raise ValueError(f"more than {_MAX_PAD} blanks")
    return " " * _whole(before) + text + " " * _whole(after) if text else ""


def _truncate(text: Any, length: Any) -> str:
    return _string(text)[: max(_whole(length), 0)]


def _title(text: Any) -> str:
    return re.sub(r"(?<!\w)\w", lambda match: match[0].upper(), _string(text))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *_: None,  # evaluated by the evaluator, which stops early
    "or": lambda *_: None,
    "not": lambda value: not is_true(value),
    "eq": _eq,
    "ne": lambda left, right: not _same(left, right),
    "lt": _less,
    "le": lambda left, right: _same(left, right) or _less(left, right),
    "gt": lambda left, right: _less(right, left),
    "ge": lambda left, right: _same(left, right) or _less(right, left),
    "html": lambda text: html.escape(print_value(text)),
    "index": _index,
    "slice": _slice,
    "len": _len,
    "print": print_operands,
    "printf": print_format,
    "println": print_line,
    "json": _json,
    "join": _join,
    "split": _split,
    "lower": lambda text: _string(text).lower(),
    "upper": lambda text: _string(text).upper(),
    "title": _title,
    "pad": _pad,
    "truncate": _truncate,
}
"""Functions by name."""
