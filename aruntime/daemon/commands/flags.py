"""Command tables and their parser: commands, flags and what a command line said.

The grammar is that of spf13/pflag as docker uses it: ``--x v``, ``--x=v``, ``-it``, ``-c512``,
``-c 512``, ``--rm=false``, ``--`` ends the flags, and with ``interspersed=False`` so does the
first argument. A command is data; running it is :mod:`aruntime.daemon.session`'s affair, the
text of ``--help`` is :mod:`aruntime.daemon.commands.help`'s. This module is a leaf of the
daemon: it knows neither sessions nor containers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from aruntime.daemon.commands import values
from aruntime.errors import UsageError

PROGRAM = "aruntime"

Kind = Literal[
    "string", "bool", "int", "list", "map", "filter", "bytes", "bytes_or_unlimited", "duration",
    "choice",
]  # fmt: skip
"""What a flag takes and what ``Parsed`` holds for it.

``string`` str; ``bool`` bool; ``int`` int (64 bit); ``list`` list[str], one per occurrence,
commas stay; ``map`` dict[str, str] of ``key=value``, a lone ``key`` has an empty value;
``filter`` dict[str, list[str]]; ``bytes`` int; ``bytes_or_unlimited`` int or -1; ``duration``
int nanoseconds; ``choice`` str, one of ``choices``.
"""

Run = Callable[[Any, "Parsed", Any], Awaitable[int]]
"""``run(session, parsed, daemon) -> exit code``; Any keeps this module below both of them."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a command."""

    name: str
    """The long name without dashes."""
    short: str = ""
    """One letter, or empty."""
    kind: Kind = "string"
    default: Any = None
    """Value when not given; None means the zero value of the kind."""
    metavar: str = ""
    """What the help shows as its value; empty: the kind's name."""
    help: str = ""
    choices: tuple[str, ...] = ()
    read: Callable[[str], Any] | None = None
    """Turns one value of a string or list flag into what ``Parsed`` holds; ValueError says why
    it cannot."""
    aliases: tuple[str, ...] = ()
    """Other long names, never shown (``--net`` for ``--network``)."""
    hidden: bool = False
    refused: str = ""
    """Why this flag of docker cannot be honoured here; giving it is an error that says so."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or one subcommand when the name has two words (``network create``)."""

    name: str
    help: str
    run: Run
    usage: str = ""
    """The arguments as the usage line shows them: ``CONTAINER [CONTAINER...]``."""
    flags: tuple[Flag, ...] = ()
    aliases: tuple[str, ...] = ()
    minimum: int = 0
    """Fewest positional arguments."""
    maximum: int | None = None
    """Most positional arguments; None: any number."""
    interspersed: bool = True
    """False: the first positional argument ends the flags (run, create, exec)."""
    section: Literal["common", "management", ""] = ""
    """Where the overview lists it."""
    hidden: bool = False
    completes: str = ""
    """What its arguments are, for completion: ``containers``, ``running``, ``images`` …"""
    description: str = ""
    """A longer text below the one-line help, or empty."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)

    @property
    def see(self) -> str:
        """Where the help is, for the tail of an error."""
        return f"see '{f'{PROGRAM} {self.name}'.rstrip()} --help'"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the command line said, defaults filled in."""

    command: Command
    args: list[str]
    """Positional arguments."""
    help: bool = False
    """``--help`` was given; nothing else has been checked then."""
    values: dict[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    """Names of the flags that stood on the command line."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def string(self, name: str) -> str:
        """Value of a string or choice flag."""
        return cast("str", self.values[name])

    def boolean(self, name: str) -> bool:
        """Value of a bool flag."""
        return cast("bool", self.values[name])

    def integer(self, name: str) -> int:
        """Value of an int, bytes (bytes) or duration (nanoseconds) flag."""
        return cast("int", self.values[name])

    def strings(self, name: str) -> list[str]:
        """Value of a list flag, in the order given."""
        return cast("list[str]", self.values[name])

    def mapping(self, name: str) -> dict[str, str]:
        """Value of a map flag; the last of equal keys wins."""
        return cast("dict[str, str]", self.values[name])

    def filters(self, name: str = "filter") -> dict[str, list[str]]:
        """Value of a filter flag: every value given for each key."""
        return cast("dict[str, list[str]]", self.values[name])


class Tables(NamedTuple):
    """What reading any line of a command needs, put together once."""

    command: Command
    long: dict[str, Flag]
    short: dict[str, Flag]
    defaults: dict[str, Any]
    """Of every flag; lists and maps are made anew for each line."""
    containers: tuple[tuple[str, Callable[[], Any]], ...]
    """What makes the value of a list or map that has no other default."""


_tables: dict[int, Tables] = {}


def tables_of(command: Command) -> Tables:
    """Return the tables of a command; commands live as long as the program."""
    found = _tables.get(id(command))
    if found is None or found.command is not command:
        found = _tables[id(command)] = Tables(
            command,
            {n: f for f in command.flags for n in (f.name, *f.aliases)},
            {f.short: f for f in command.flags if f.short},
            {f.name: zero_value(f.kind) if f.default is None else f.default for f in command.flags},
            tuple(
                (f.name, type(zero_value(f.kind)))
                for f in command.flags
                if f.default is None and f.kind in ("list", "map", "filter")
            ),
        )
    return found


class _FlagWords:
    """One left-to-right reading of a command line; lives for one call of :func:`parse`."""

    def __init__(self, command: Command, words: Sequence[str]) -> None:
        self.words = list(words)
        self.position = 0
        self.help = False
        self.args: list[str] = []
        self.found: dict[str, Any] = {}
        tables = tables_of(command)
        self.long = tables.long
        self.short = tables.short
        self.interspersed = command.interspersed

    def read(self) -> None:
        """Sort every word into flags and arguments."""
        while self.position < len(self.words):
            word = self.next_word()
            if word == "--":
                break
            if len(word) < 2 or word[0] != "-":
                self.args.append(word)
                if not self.interspersed:
                    break
            elif word[1] == "-":
                self.read_long(word)
            else:
                self.read_short(word)
        self.args += self.words[self.position :]

    def next_word(self) -> str:
        word = self.words[self.position]
        self.position += 1
        return word

    def read_long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        if not name or name[0] == "-":
            raise ValueError(f"bad flag syntax: {word}")
        flag = self.long.get(name)
        if flag is None:
            if name != "help":
                raise ValueError(f"unknown flag: --{name}")
            self.help = values.parse_bool(value) if equals else True
        elif equals:
            self.store(flag, value)
        elif flag.kind == "bool":
            self.store(flag, "true")
        elif self.position == len(self.words):
            raise ValueError(f"flag needs an argument: {word}")
        else:
            self.store(flag, self.next_word())

    def read_short(self, word: str) -> None:
        letters = word[1:]
        while letters:
            flag = self.short.get(letters[0])
            rest = letters[1:]
            if flag is None:
                if letters[0] != "h":
                    raise ValueError(f"unknown shorthand flag: '{letters[0]}' in -{letters}")
                self.help = True
            elif len(rest) > 1 and rest[0] == "=":
                self.store(flag, rest[1:])
                return
            elif flag.kind == "bool":
                self.store(flag, "true")
            elif rest:
                self.store(flag, rest)
                return
            elif self.position == len(self.words):
                raise ValueError(f"flag needs an argument: '{letters[0]}' in -{letters}")
            else:
                self.store(flag, self.next_word())
                return
            letters = rest

    def store(self, flag: Flag, text: str) -> None:
        if flag.refused:
            raise ValueError(f"--{flag.name} is not supported: {flag.refused}")
        try:
            self.found[flag.name] = read_value(flag, text, self.found.get(flag.name))
        except ValueError as error:
            shown = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
            raise ValueError(f'invalid argument "{text}" for "{shown}" flag: {error}') from None


def read_value(flag: Flag, text: str, previous: Any = None) -> Any:
    """Turn one value of a flag into what ``Parsed`` holds.

    Args:
        flag: the flag.
        text: the value as typed.
        previous: what earlier occurrences on the same line made; lists and maps grow.

    Raises:
        ValueError: with the reason only.
    """
    read = flag.read or str
    match flag.kind:
        case "string":
            return read(text)
        case "choice":
            if text not in flag.choices:
                raise ValueError(f"must be one of {', '.join(flag.choices)}")
            return text
        case "list":
            return [*(previous or []), read(text)]
        case "map":
            key, _, value = text.partition("=")
            if not key:
                raise ValueError(f"invalid label '{text}': empty name")
            return {**(previous or {}), key: value}
        case "filter":
            return _read_filter(text, previous or {})
        case _:
            return _SCALARS[flag.kind](text)


def _read_filter(text: str, previous: dict[str, list[str]]) -> dict[str, list[str]]:
    key, equals, value = text.partition("=")
    key = key.strip().lower()
    if not equals or not key:
        raise ValueError(f"invalid filter '{text}'")
    return {**previous, key: [*previous.get(key, []), value.strip()]}


_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": values.parse_bool,
    "int": values.parse_int,
    "bytes": values.parse_bytes,
    "bytes_or_unlimited": values.parse_bytes_or_unlimited,
    "duration": values.parse_duration,
}


def zero_value(kind: Kind) -> Any:
    """What a flag of the kind holds when it was not given and has no default."""
    match kind:
        case "string" | "choice":
            return ""
        case "bool":
            return False
        case "list":
            return []
        case "map" | "filter":
            return {}
        case _:
            return 0


def parse(command: Command, words: Sequence[str]) -> Parsed:
    """Parse what follows the command's name.

    Raises:
        UsageError: the message is docker's, with where the help is.
    """
    line = _FlagWords(command, words)
    try:
        line.read()
    except ValueError as error:
        raise UsageError(f"{error}; {command.see}") from None
    tables = tables_of(command)
    found = tables.defaults.copy()
    for name, make in tables.containers:
        found[name] = make()
    found.update(line.found)
    if not line.help:
        _check_count(command, len(line.args))
    return Parsed(command, line.args, line.help, found, frozenset(line.found))


def _check_count(command: Command, count: int) -> None:
    least, most = command.minimum, command.maximum
    if count >= least and (most is None or count <= most):
        return
    if most == 0:
        rule = "accepts no arguments"
    elif most is None:
        rule = f"requires at least {least} {_plural(least)}"
    elif most == least:
        rule = f"requires exactly {least} {_plural(least)}"
    elif least == 0:
        rule = f"requires at most {most} {_plural(most)}"
    else:
        rule = f"requires at least {least} and at most {most} {_plural(most)}"
    raise UsageError(f'"{PROGRAM} {command.name}" {rule}; {command.see}')


def _plural(count: int) -> str:
    return "argument" if count == 1 else "arguments"
