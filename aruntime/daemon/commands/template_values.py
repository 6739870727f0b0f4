"""Evaluation of a parsed ``--format`` template on JSON-able values.

Values are what the commands show: dicts, lists, strings, numbers, booleans, None; a callable
in a dict is a method (``.Label "key"``). Printing, truth and comparison are Go's. An unknown
field is an error that lists the known ones, except in the maps whose keys the user chose
(``OPEN_MAPS``), where a missing key prints ``<no value>``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aruntime.daemon.commands import template as ast
from aruntime.daemon.commands.template_functions import (
    FUNCTIONS,
    is_true,
    kind_of,
    print_value,
)
from aruntime.errors import UsageError

OPEN_MAPS = frozenset(
    {
        "Annotations", "Labels", "Networks", "Options", "Ports", "PortBindings", "Sysctls",
        "Tmpfs", "Volumes", "ExposedPorts", "DriverOpts", "LogOpts",
    }
)  # fmt: skip
"""Fields that hold maps with keys of the user's choice, where a missing key is no mistake."""


class _Open(dict[str, Any]):
    """A map with keys of the user's choice."""


class _Loop(Exception):
    """``break`` or ``continue`` on its way to the range around it."""


def render(template: ast.Template, value: Any, *, header: Mapping[str, str] | None = None) -> str:
    """Evaluate a template.

    Args:
        template: what :func:`aruntime.daemon.commands.template.parse` made.
        value: the value of ``.`` and ``$``.
        header: given for the heading of a table: then ``value`` is ignored, fields are their
            titles and docker's functions pass them through.

    Raises:
        UsageError: naming the position: an unknown field or function, a wrong argument.
    """
    run = _Evaluation(template.source, value if header is None else header, header is not None)
    run.nodes(template.nodes, run.root)
    return "".join(run.out)


class _Evaluation:
    """One evaluation: output so far and the variables in scope."""

    def __init__(self, source: str, value: Any, header: bool) -> None:
        self.source = source
        self.root = value
        self.header = header
        self.out: list[str] = []
        self.scopes: list[dict[str, Any]] = [{"": value}]

    def fail(self, position: int, reason: str) -> NoReturn:
        where = ast.place(self.source, position)
        raise UsageError(f"template execution error: {where}: {reason}")

    def nodes(self, nodes: tuple[Any, ...], dot: Any) -> None:
        for node in nodes:
            if isinstance(node, ast.Text):
                self.out.append(node.text)
            elif isinstance(node, ast.Pipe):
                value = self.pipe(node, dot)
                if not node.variables:
                    self.out.append(print_value(value))
            elif isinstance(node, ast.Jump):
                raise _Loop(node.kind)
            else:
                self.block(node, dot)

    def block(self, node: ast.Block, dot: Any) -> None:
        self.scopes.append({})
        try:
            if node.kind == "range":
                self.range(node, dot)
                return
            value = self.pipe(node.pipe, dot)
            if is_true(value):
                self.nodes(node.body, value if node.kind == "with" else dot)
            else:
                self.nodes(node.otherwise, dot)
        finally:
            self.scopes.pop()

    def range(self, node: ast.Block, dot: Any) -> None:
        bare = ast.Pipe(node.pipe.calls, position=node.pipe.position)
        items = self.items(self.pipe(bare, dot), node.pipe.position)
        names = node.pipe.variables
        for key, item in items:
            self.scopes.append({})
            try:
                pair = (item,) if len(names) == 1 else (key, item)
                for name, value in zip(names, pair, strict=False):
                    self.assign(name, value, node.pipe.declares)
                self.nodes(node.body, item)
            except _Loop as jump:
                if str(jump) == "break":
                    break
            finally:
                self.scopes.pop()
        if not items:
            self.nodes(node.otherwise, dot)

    def items(self, value: Any, position: int) -> list[tuple[Any, Any]]:
        if value is None:
            return []
        if isinstance(value, Mapping):
            return sorted(value.items())
        if isinstance(value, (list, tuple)):
            return list(enumerate(value))
        if self.header:
            return [(0, value)]
        return self.fail(position, f"range can't iterate over {print_value(value)}")

    def assign(self, name: str, value: Any, declares: bool) -> None:
        if declares:
            self.scopes[-1][name] = value
            return
        self.scope_of(name)[name] = value

    def scope_of(self, name: str, position: int = 0) -> dict[str, Any]:
        found: list[dict[str, Any]] = [scope for scope in self.scopes if name in scope]
        if found:
            return found[-1]
        self.fail(position, f"variable ${name} has no value here")

    def pipe(self, node: ast.Pipe, dot: Any) -> Any:
        value = self.call(node.calls[0], dot, ())
        for call in node.calls[1:]:
            value = self.call(call, dot, (value,))
        for name in node.variables:
            self.assign(name, value, node.declares)
        return value

    def call(self, node: ast.Call, dot: Any, piped: tuple[Any, ...]) -> Any:
        first, *rest = node.words
        if isinstance(first, ast.Function):
            return self.function(first, rest, dot, piped)
        arguments = [self.value(word, dot) for word in rest] + list(piped)
        if isinstance(first, ast.Fields):
            return self.fields(first, dot, arguments)
        return self.value(first, dot)

    def function(
        self, node: ast.Function, words: list[Any], dot: Any, piped: tuple[Any, ...]
    ) -> Any:
        lazy = itertools.chain((self.value(word, dot) for word in words), piped)
        if node.name in {"and", "or"}:
            return self.logic(node, lazy)
        arguments = list(lazy)
        if self.header and node.name not in {"print", "printf", "println"}:
            return arguments[0] if arguments else ""
        try:
            return FUNCTIONS[node.name](*arguments)
        except (TypeError, ValueError, IndexError) as error:
            reason = str(error) if isinstance(error, ValueError) else "wrong arguments"
            return self.fail(node.position, f"{node.name}: {reason}")

    def logic(self, node: ast.Function, arguments: Any) -> Any:
        """Evaluate ``and`` or ``or`` no further than needed."""
        found = False
        value: Any = None
        for value in arguments:
            found = True
            if is_true(value) == (node.name == "or"):
                return value
        if not found:
            self.fail(node.position, f"{node.name}: wrong arguments")
        return value

    def value(self, node: Any, dot: Any) -> Any:
        if isinstance(node, ast.Dot):
            return dot
        if isinstance(node, ast.Literal):
            return node.value
        if isinstance(node, ast.Variable):
            return self.scope_of(node.name, node.position)[node.name]
        if isinstance(node, ast.Fields):
            return self.fields(node, dot, [])
        if isinstance(node, ast.Function):
            return self.function(node, [], dot, ())
        return self.pipe(node, dot)

    def fields(self, node: ast.Fields, dot: Any, arguments: list[Any]) -> Any:
        value = self.value(node.base, dot)
        last = len(node.names) - 1
        for index, name in enumerate(node.names):
            value = self.field(value, name, node.position)
            if callable(value):
                value = self.method(value, name, arguments if index == last else [], node)
            elif arguments and index == last and self.header:
                value = str(arguments[0]).rpartition(".")[2].upper()
            elif arguments and index == last:
                self.fail(node.position, f"{name} is not a method but has arguments")
        return value

    def field(self, value: Any, name: str, position: int) -> Any:
        if self.header and not isinstance(value, Mapping):
            return name.upper()
        if not isinstance(value, Mapping):
            self.fail(position, f"can't evaluate field {name} in type {kind_of(value)}")
        if name not in value:
            if isinstance(value, _Open):
                return None
            self.fail(position, f"no field {name}; there are {', '.join(map(str, value))}")
        found = value[name]
        return _Open(found) if name in OPEN_MAPS and isinstance(found, Mapping) else found

    def method(
        self, method: Callable[..., Any], name: str, arguments: list[Any], node: ast.Fields
    ) -> Any:
        try:
            return method(*arguments)
        except TypeError:
            return self.fail(node.position, f"{name}: wrong arguments")
