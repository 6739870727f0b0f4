"""From a command line to an exit code: finds the command, runs it, words its failure.

The tables of all commands are put together once (:func:`load_registry`); reading a line is pure,
so that the client can do it without a daemon for ``--help``. A failure that the tree of
:mod:`aruntime.errors` foresees is one line for the user; anything else is a bug, told in full to
the log and in one line to the user.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

import structlog
import trio

from aruntime import __version__
from aruntime.daemon import commands
from aruntime.daemon.commands.flags import PROGRAM, Command, Parsed, parse
from aruntime.daemon.commands.groups import with_groups
from aruntime.daemon.commands.help import group_text, help_text, overview
from aruntime.daemon.commands.registry import Registry, registry
from aruntime.daemon.commands.values import escape_controls
from aruntime.daemon.journal import watched
from aruntime.daemon.session import Session
from aruntime.errors import AruntimeError, UsageError, os_error_text

journal = structlog.get_logger()

FAILED = AruntimeError.EXIT_CODE
DEFAULT_COLUMNS = 80


class UnknownCommand(UsageError):
    """The first word names no command (exit code 1, as docker's)."""

    EXIT_CODE = 1


def load_registry() -> Registry:
    """Import every module of commands and index what they offer."""
    found: list[Command] = []
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda entry: entry.name):
        loaded = importlib.import_module(f"{commands.__name__}.{module.name}")
        found += getattr(loaded, "COMMANDS", [])
    return registry(with_groups(found))


def read_line(known: Registry, argv: Sequence[str], columns: int = 0) -> Parsed | str:
    """Read a command line: what to run, or the text it asks for (help, version).

    Args:
        known: all commands.
        argv: the words after the program's name; global options may lead.
        columns: width of the terminal, 0 if there is none.

    Raises:
        UnknownCommand: there is no such command.
        UsageError: the line does not fit the command.
    """
    width = columns or DEFAULT_COLUMNS
    top = known.split_globals(argv)
    if top.boolean("version"):
        return f"{PROGRAM} version {__version__}\n"
    if "host" in top.given:
        raise UsageError("write --host before the other global options and by itself")
    words = list(top.args)
    if words[:1] == ["help"] and "help" not in known.by_name:
        words = [*words[1:], "--help"] if words[1:] else []
    if top.help or not words:
        return overview(known, width)
    if top.boolean("debug") and not known.may_debug:
        raise UsageError("-D shows what the daemon does for everybody and is not for tenants")
    group = {} if words[0] in known.by_name else known.subcommands(words[0])
    if group and words[1:] in ([], ["--help"], ["-h"]):
        return group_text(words[0], group)
    try:
        command, rest = known.find(words)
    except UsageError as error:
        raise UnknownCommand(str(error)) from None
    parsed = parse(command, rest)
    return help_text(command, width) if parsed.help else parsed


async def execute(session: Session, known: Registry, daemon: Any) -> int:
    """Run a session's command line; returns its exit code and never raises an Exception.

    The command is cancelled when the session's scope is (the client went, the daemon stops);
    the code is then 125 and nobody may be left to read it.
    """
    code = FAILED
    try:
        with session.scope:
            line = read_line(known, session.argv, session.cols)
            if isinstance(line, str):
                await session.out(line)
                code = 0
            elif known.split_globals(session.argv).boolean("debug"):
                code = await _run_watched(session, line, daemon)
            else:
                code = await line.command.run(session, line, daemon)
    except Exception as error:
        code = await _report(session, error)
    return code


async def _run_watched(session: Session, line: Parsed, daemon: Any) -> int:
    """Run a command and show its client what the daemon logs meanwhile."""
    code = FAILED

    async def show(lines: trio.MemoryReceiveChannel[str]) -> None:
        async for text in lines:
            await session.err(text)

    async with trio.open_nursery() as nursery:
        with watched() as lines:
            nursery.start_soon(show, lines)
            code = await line.command.run(session, line, daemon)
    return code


async def _report(session: Session, error: Exception) -> int:
    """Tell the user what failed, one line each; returns the exit code of the first failure."""
    code = 0
    said: set[str] = set()
    for leaf in leaves(error):
        if isinstance(leaf, AruntimeError):
            text, leaf_code = leaf.message, leaf.EXIT_CODE
        elif isinstance(leaf, OSError) and leaf.strerror:
            journal.warning("command failed in a system call", exc_info=leaf)
            text, leaf_code = os_error_text(leaf), FAILED
        else:
            journal.error("command failed by a bug", argv=session.argv[:1], exc_info=leaf)
            kind = f"{type(leaf).__name__}: {' '.join(str(leaf).split())}"
            text, leaf_code = f"internal error ({kind}); the daemon's log has more", FAILED
        if text not in said:
            said.add(text)
            await session.err(f"{PROGRAM}: {escape_controls(text)}\n")
        code = code or leaf_code
    return code


def leaves(error: BaseException) -> list[Exception]:
    """The failures inside nested exception groups, in order; cancellations are left out."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error] if isinstance(error, Exception) else []
