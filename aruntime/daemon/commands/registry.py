"""The commands by name: global options, finding the command a line names.

Sits on :mod:`aruntime.daemon.commands.flags`; whoever composes the daemon puts the modules'
``COMMANDS`` lists together with :func:`registry`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aruntime.daemon.commands.flags import PROGRAM, Command, Flag, Parsed, parse
from aruntime.errors import UsageError

GLOBAL_FLAGS = (
    Flag("debug", "D", "bool", help="Show what the daemon does for this command"),
    Flag("host", "H", "string", help="Daemon socket to connect to (unix:///path)"),
    Flag("version", "v", "bool", help="Print the version and quit"),
)


async def _no_run(_session: Any, _parsed: Parsed, _daemon: Any) -> int:
    raise UsageError(f"{PROGRAM} needs a command; see '{PROGRAM} --help'")


TOP = Command("", "", _no_run, flags=GLOBAL_FLAGS, interspersed=False)
"""The program itself as a command without a name."""


@dataclass(frozen=True, slots=True)
class Registry:
    """All commands by name and alias."""

    commands: tuple[Command, ...]
    by_name: dict[str, Command]
    may_debug: bool = True
    """Whether -D may show what the daemon logs, which is about everybody's containers."""

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands)

    def subcommands(self, group: str) -> dict[str, Command]:
        """Commands of a group (``network``) by their second word, each once, in order."""
        found: dict[str, Command] = {}
        for command in self.commands:
            words = [name.split(" ")[1] for name in command.names if name.startswith(f"{group} ")]
            if words and not command.hidden:
                found[words[0]] = command
        return dict(sorted(found.items()))

    def groups(self) -> list[str]:
        """Words that need a second one, sorted."""
        names = [name for command in self.commands if not command.hidden for name in command.names]
        return sorted({name.partition(" ")[0] for name in names if " " in name})

    def split_globals(self, argv: Sequence[str]) -> Parsed:
        """Read the global options before the command; ``args`` is the rest of the line.

        Raises:
            UsageError: an unknown global option.
        """
        return parse(TOP, argv)

    def find(self, argv: Sequence[str]) -> tuple[Command, list[str]]:
        """Find the command that a line without global options names, and its words.

        Raises:
            UsageError: there is no such command.
        """
        for length in (2, 1):
            command = self.by_name.get(" ".join(argv[:length]))
            if command is not None and len(argv) >= length:
                return command, list(argv[length:])
        raise UsageError(self._unknown(argv))

    def _unknown(self, argv: Sequence[str]) -> str:
        word = argv[0] if argv else ""
        if not word:
            return f"{PROGRAM} needs a command; see '{PROGRAM} --help'"
        if self.subcommands(word):
            tried = f"'{argv[1]}' is not a command of" if len(argv) > 1 else "a command must follow"
            return f"{tried} '{PROGRAM} {word}'; see '{PROGRAM} {word} --help'"
        near = difflib.get_close_matches(word, [n for n in self.by_name if " " not in n], n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"see '{PROGRAM} --help'"
        return f"'{word}' is not an {PROGRAM} command; {advice}"


def registry(commands: Iterable[Command]) -> Registry:
    """Index commands; a name that is used twice is a mistake of the program."""
    table = tuple(commands)
    by_name: dict[str, Command] = {}
    for command in table:
        for name in command.names:
            if name in by_name:
                raise ValueError(f"two commands are called {name}")
            by_name[name] = command
    return Registry(table, by_name)
