"""From a line to a command: help, unknown names, and how failures are worded."""

from __future__ import annotations

import pytest

from aruntime import __version__
from aruntime.daemon import dispatch
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.registry import Registry, registry
from aruntime.errors import UsageError, os_error_text


async def nothing(_session: object, _parsed: Parsed, _daemon: object) -> int:
    """A command that succeeds."""
    return 0


@pytest.fixture
def known() -> Registry:
    """Three commands, two of them in a group."""
    return registry(
        [
            Command("ps", "List containers", nothing, flags=(Flag("all", "a", "bool"),)),
            Command("net ls", "List networks", nothing),
            Command("net rm", "Remove networks", nothing, minimum=1),
        ]
    )


def text_of(line: Parsed | str) -> str:
    """The text a line asked for."""
    assert isinstance(line, str)
    return line


def test_line_is_parsed_with_its_command(known: Registry) -> None:
    """Global options before, the command's flags after its name."""
    line = dispatch.read_line(known, ["-D", "ps", "-a"])
    assert isinstance(line, Parsed)
    assert line.command.name == "ps"
    assert line.boolean("all")
    line = dispatch.read_line(known, ["net", "rm", "x"])
    assert isinstance(line, Parsed)
    assert (line.command.name, line.args) == ("net rm", ["x"])


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"], ["-D", "--help"]])
def test_overview(known: Registry, argv: list[str]) -> None:
    """Help without a command is the overview of all."""
    text = text_of(dispatch.read_line(known, argv))
    assert text.startswith("Usage:  aruntime [OPTIONS] COMMAND")
    assert "List containers" in text


@pytest.mark.parametrize("argv", [["ps", "--help"], ["help", "ps"], ["ps", "-h", "--nonsense"][:2]])
def test_help_of_a_command(known: Registry, argv: list[str]) -> None:
    """`COMMAND --help` and `help COMMAND` are the same."""
    assert "Usage:  aruntime ps" in text_of(dispatch.read_line(known, argv))


@pytest.mark.parametrize("argv", [["net"], ["net", "--help"], ["help", "net"]])
def test_help_of_a_group(known: Registry, argv: list[str]) -> None:
    """A group's word alone lists its commands."""
    assert "List networks" in text_of(dispatch.read_line(known, argv))


def test_version_needs_no_command(known: Registry) -> None:
    """`--version` is one line."""
    assert dispatch.read_line(known, ["--version"]) == f"aruntime version {__version__}\n"


def test_unknown_command_exits_1(known: Registry) -> None:
    """The word is named, and where the help is; the exit code is docker's."""
    with pytest.raises(dispatch.UnknownCommand) as caught:
        dispatch.read_line(known, ["frobnicate"])
    said = "'frobnicate' is not an aruntime command; see 'aruntime --help'"
    assert caught.value.message == said
    assert caught.value.EXIT_CODE == 1
    with pytest.raises(dispatch.UnknownCommand, match="'x' is not a command of 'aruntime net'"):
        dispatch.read_line(known, ["net", "x"])


@pytest.mark.parametrize(
    "argv",
    [["ps", "--nope"], ["--nope", "ps"], ["net", "rm"], ["--debug", "--host=unix:///x", "ps"]],
)
def test_wrong_usage_exits_125(known: Registry, argv: list[str]) -> None:
    """Wrong flags and counts fail as docker's do, with where the help is."""
    with pytest.raises(UsageError) as caught:
        dispatch.read_line(known, argv)
    assert caught.value.EXIT_CODE == 125


def test_all_commands_load() -> None:
    """Every module of commands imports, and no two commands share a name."""
    names = {command.name for command in dispatch.load_registry()}
    assert {"version", "info", "daemon"} <= names


def test_leaves_of_nested_groups() -> None:
    """Only real failures are told, in order, however nurseries wrapped them."""
    first, second = KeyError("a"), OSError(2, "b")
    nested = BaseExceptionGroup("x", [ExceptionGroup("y", [first]), KeyboardInterrupt(), second])
    assert dispatch.leaves(nested) == [first, second]


def test_system_call_errors_name_the_path() -> None:
    """The kernel's words in lower case, after the path when there is one."""
    assert os_error_text(FileNotFoundError(2, "No such file", "/x")) == "/x: no such file"
    assert os_error_text(OSError(28, "No space left on device")) == (
        "no space left on device; free some and try again"
    )
