"""The part of Go's text/template that users of docker write after ``--format``.

Parsing only: text to a tree. :mod:`aruntime.daemon.commands.template_values` evaluates it.
Known: fields (``.A.B``), ``$``, variables, literals, pipelines, parentheses, ``if``, ``else``,
``else if``, ``range``, ``with``, ``break``, ``continue``, comments and trim markers. Not known
(an error says so): ``define``, ``template``, ``block``. Source: Go's package text/template.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from aruntime.daemon.commands.template_functions import FUNCTIONS
from aruntime.errors import UsageError

MAX_DEPTH = 60
"""Deepest nesting of blocks and parentheses; the evaluator recurses as deep."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:\\.|[^"\\])*")
    |(?P<raw>`[^`]*`)
    |(?P<rune>'(?:\\.[^']*|[^\\'])')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[.=|(),])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"'])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|([0-7]{3}))")
_ESCAPES = dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))
_TRIM_LEFT = re.compile(r"\{\{-\s")
_COMMENT = re.compile(r"\s*/\*.*?\*/(\s-)?\}\}", re.DOTALL)
_CLOSING = re.compile(r"(\s-)?\}\}")
_REFUSED = frozenset({"define", "template", "block"})


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an action; ``end`` shows whether the next one touches it."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Text:
    """What stands outside of actions, trimmed as the markers ask."""

    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: Any


@dataclass(frozen=True, slots=True)
class Variable:
    """``$name``; ``$`` alone is the value the template was started with."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name; only the first word of a command may be one with arguments."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Fields:
    """``base.A.B``: fields of a value, outermost first."""

    base: Any
    names: tuple[str, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Call:
    """One command of a pipeline: a function or value and its arguments."""

    words: tuple[Any, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Pipe:
    """``a | b | c``, with the variables it declares or sets."""

    calls: tuple[Call, ...]
    variables: tuple[str, ...] = ()
    declares: bool = False
    position: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """``if``, ``range`` or ``with``: condition, body, else-body."""

    kind: str
    pipe: Pipe
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """``break`` or ``continue``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template and its source (for the positions in errors)."""

    source: str
    nodes: tuple[Any, ...]


def place(source: str, position: int) -> str:
    """Name a position for a human: the column, and the line when there are several."""
    line = source.count("\n", 0, position) + 1
    column = position - (source.rfind("\n", 0, position) + 1) + 1
    return f"line {line} column {column}" if "\n" in source else f"column {column}"


def parse(source: str) -> Template:
    """Parse a template.

    Raises:
        UsageError: naming the position and what was expected there.
    """
    parser = _Parser(source)
    nodes, _ = parser.nodes(ends=())
    return Template(source, nodes)


class _Parser:
    """Recursive descent over one source; lives for one call of :func:`parse`."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        self.depth = 0
        self.ranges = 0
        self.trim_next = False
        self.tokens: list[Token] = []
        self.known = {""}

    def fail(self, position: int, reason: str) -> NoReturn:
        raise UsageError(f"template parsing error: {place(self.source, position)}: {reason}")

    def deeper(self, position: int) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(position, "nested too deeply")

    def nodes(self, ends: tuple[str, ...]) -> tuple[tuple[Any, ...], str]:
        """Read text and actions until one of ``ends`` or, without any, the end of the source."""
        opened = self.position
        found: list[Any] = []
        while True:
            self.text(found)
            if self.position >= len(self.source):
                if ends:
                    self.fail(opened, "an {{end}} is missing for the block before this")
                return tuple(found), ""
            start = self.position
            if not self.action():
                continue
            keyword = self.tokens[0].text if self.tokens and self.tokens[0].kind == "word" else ""
            if keyword in {"end", "else"}:
                if keyword not in ends:
                    self.fail(start, f"unexpected {{{{{keyword}}}}}")
                self.tokens.pop(0)
                return tuple(found), keyword
            found.append(self.statement(keyword, start))

    def text(self, found: list[Any]) -> None:
        """Take the text up to the next action."""
        opening = self.source.find("{{", self.position)
        end = len(self.source) if opening < 0 else opening
        text = self.source[self.position : end]
        if self.trim_next:
            text = text.lstrip()
        if _TRIM_LEFT.match(self.source, end):
            text = text.rstrip()
        self.trim_next = False
        if text:
            found.append(Text(text))
        self.position = end

    def action(self) -> bool:
        """Split the action at the position into tokens; False for a comment."""
        start = self.position
        at = start + (3 if _TRIM_LEFT.match(self.source, start) else 2)
        comment = _COMMENT.match(self.source, at)
        if comment:
            self.position = comment.end()
            self.trim_next = bool(comment[1])
            return False
        self.tokens = []
        while True:
            closing = _CLOSING.match(self.source, at)
            if closing:
                self.position = closing.end()
                self.trim_next = bool(closing[1])
                return True
            match = _TOKEN.match(self.source, at)
            if match is None:
                self.bad_character(start, at)
            if match.lastgroup != "space":
                self.tokens.append(Token(str(match.lastgroup), match[0], at, match.end()))
            at = match.end()

    def bad_character(self, start: int, at: int) -> NoReturn:
        if at >= len(self.source):
            self.fail(start, "unclosed action")
        if self.source[at] in '"`':
            self.fail(at, "unterminated string")
        self.fail(at, f"unexpected {self.source[at]!r}")

    def statement(self, keyword: str, start: int) -> Any:
        """Read one action that is not the end of a block."""
        if keyword in _REFUSED:
            self.fail(start, f"{{{{{keyword}}}}} is not supported")
        if keyword in {"if", "range", "with"}:
            self.tokens.pop(0)
            return self.block(keyword, start)
        if keyword in {"break", "continue"}:
            if not self.ranges:
                self.fail(start, f"{{{{{keyword}}}}} outside of {{{{range}}}}")
            self.tokens.pop(0)
            self.nothing_more()
            return Jump(keyword)
        pipe = self.pipe(start, in_range=False)
        self.nothing_more()
        return pipe

    def block(self, kind: str, start: int) -> Block:
        self.deeper(start)
        outer = set(self.known)
        pipe = self.pipe(start, in_range=kind == "range")
        self.nothing_more()
        inner_known = set(self.known)
        self.ranges += kind == "range"
        body, end = self.nodes(("end", "else"))
        self.ranges -= kind == "range"
        self.known = inner_known
        otherwise: tuple[Any, ...] = ()
        if end == "else" and self.tokens and self.tokens[0].text in {"if", "with"}:
            inner = self.tokens.pop(0).text
            otherwise = (self.block(inner, start),)
        else:
            self.nothing_more()
            if end == "else":
                otherwise, _ = self.nodes(("end",))
                self.nothing_more()
        self.known = outer
        self.depth -= 1
        return Block(kind, pipe, body, otherwise)

    def nothing_more(self) -> None:
        if self.tokens:
            self.fail(self.tokens[0].start, f"unexpected {self.tokens[0].text!r}")

    def pipe(self, start: int, *, in_range: bool) -> Pipe:
        variables, declares = self.declaration(in_range)
        calls = [self.call(start)]
        while self.tokens and self.tokens[0].text == "|":
            at = self.tokens.pop(0).start
            calls.append(self.call(at))
            if not isinstance(calls[-1].words[0], (Function, Fields)):
                self.fail(calls[-1].position, "only a function can stand behind |")
        self.known.update(variables)
        return Pipe(tuple(calls), variables, declares, start)

    def declaration(self, in_range: bool) -> tuple[tuple[str, ...], bool]:
        """Read ``$x :=``, ``$x =`` or, for range, ``$i, $x :=``."""
        kinds = [token.kind for token in self.tokens[:3]]
        texts = [token.text for token in self.tokens[:4]]
        count = 2 if kinds[::2] == ["variable", "variable"] and texts[1] == "," else 1
        if kinds[:1] != ["variable"] or texts[2 * count - 1 : 2 * count] not in ([":="], ["="]):
            return (), False
        if count == 2 and not in_range:
            self.fail(self.tokens[0].start, "two variables are for {{range}} only")
        names = tuple(text[1:] for text in texts[: 2 * count : 2])
        declares = texts[2 * count - 1] == ":="
        if not declares:
            for token in self.tokens[: 2 * count : 2]:
                self.variable(token)
        del self.tokens[: 2 * count]
        return names, declares

    def variable(self, token: Token) -> Variable:
        if token.text[1:] not in self.known:
            self.fail(token.start, f"undefined variable {token.text}")
        return Variable(token.text[1:], token.start)

    def call(self, start: int) -> Call:
        words: list[Any] = []
        position = self.tokens[0].start if self.tokens else start
        while self.tokens and self.tokens[0].text not in {"|", ")"}:
            words.append(self.operand())
        if not words:
            self.fail(start, "a value is missing")
        if len(words) > 1 and not isinstance(words[0], (Function, Fields)):
            self.fail(position, "only a function can take arguments")
        return Call(tuple(words), position)

    def operand(self) -> Any:
        token = self.tokens.pop(0)
        end = token.end
        if token.text == "(":
            self.deeper(token.start)
            base: Any = self.pipe(token.start, in_range=False)
            if not self.tokens or self.tokens[0].text != ")":
                self.fail(token.start, "unclosed left paren")
            end = self.tokens.pop(0).end
            self.depth -= 1
        elif token.kind == "field":
            self.tokens.insert(0, token)
            base, end = Dot(), token.start
        else:
            base = self.atom(token)
        names: list[str] = []
        while self.tokens and self.tokens[0].kind == "field" and self.tokens[0].start == end:
            end = self.tokens[0].end
            names.append(self.tokens.pop(0).text[1:])
        return Fields(base, tuple(names), token.start) if names else base

    def atom(self, token: Token) -> Any:
        atoms: dict[str, Callable[[Token], Any]] = {
            "variable": self.variable,
            "string": lambda t: Literal(self.unquote(t)),
            "raw": lambda t: Literal(t.text[1:-1]),
            "rune": lambda t: Literal(self.rune(t)),
            "number": lambda t: Literal(_number(t.text)),
        }
        if token.text == ".":
            return Dot()
        if token.kind in atoms:
            return atoms[token.kind](token)
        constants = {"true": True, "false": False, "nil": None}
        if token.kind == "word":
            if token.text in constants:
                return Literal(constants[token.text])
            if token.text not in FUNCTIONS:
                self.fail(token.start, f'function "{token.text}" not defined')
            return Function(token.text, token.start)
        return self.fail(token.start, f"unexpected {token.text!r}")

    def rune(self, token: Token) -> int:
        """Return the number of a character constant."""
        text = self.unquote(token)
        if len(text) != 1:
            self.fail(token.start, f"malformed character constant: {token.text}")
        return ord(text)

    def unquote(self, token: Token) -> str:
        def one(match: re.Match[str]) -> str:
            if match[1]:
                return _ESCAPES[match[1]]
            code = match[2] or match[3]
            return chr(int(code, 16) if code else int(match[4], 8))

        body = token.text[1:-1]
        if "\\" in _ESCAPE.sub("", body):
            self.fail(token.start, f"bad escape in {token.text}")
        return _ESCAPE.sub(one, body)


def _number(text: str) -> int | float:
    if "x" in text.lower():
        return int(text, 16)
    return float(text) if re.search(r"[.eE]", text) else int(text)
