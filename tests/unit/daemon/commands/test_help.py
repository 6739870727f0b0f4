"""Help texts and the table of commands."""

from __future__ import annotations

from typing import Any

import pytest

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.help import group_text, help_text, overview
from aruntime.daemon.commands.registry import registry
from aruntime.errors import UsageError


async def _run(_session: Any, _parsed: Parsed, _daemon: Any) -> int:
    return 0


STOP = Command(
    "stop",
    "Stop one or more running containers",
    _run,
    usage="CONTAINER [CONTAINER...]",
    minimum=1,
    aliases=("container stop",),
    flags=(
        Flag("time", "t", "int", 10, help="Seconds to wait before killing the container"),
        Flag("signal", "s", help="Signal to send to the container"),
        Flag("sig-proxy", kind="bool", default=True, help="Proxy signals"),
        Flag("interval", kind="duration", default=30_000_000_000, help="Time between"),
        Flag("driver", default="json-file", help="Name"),
        Flag("secret", hidden=True, help="Never shown"),
        Flag("publish", refused="later", help="Never shown either"),
    ),
)
PS = Command("ps", "List containers", _run, maximum=0, section="common")
NETWORK_LS = Command("network ls", "List networks", _run, aliases=("network list",))
NETWORK_RM = Command("network rm", "Remove networks", _run, minimum=1)
TABLE = registry([STOP, PS, NETWORK_LS, NETWORK_RM])


def test_the_help_has_docker_s_shape() -> None:
    """Usage, blank, one line, aliases, options with metavars and defaults."""
    assert help_text(STOP) == (
        "Usage:  aruntime stop [OPTIONS] CONTAINER [CONTAINER...]\n"
        "\n"
        "Stop one or more running containers\n"
        "\n"
        "Aliases:\n"
        "  aruntime stop, aruntime container stop\n"
        "\n"
        "Options:\n"
        '      --driver string       Name (default "json-file")\n'
        "      --interval duration   Time between (default 30s)\n"
        "      --sig-proxy           Proxy signals (default true)\n"
        "  -s, --signal string       Signal to send to the container\n"
        "  -t, --time int            Seconds to wait before killing the container\n"
        "                            (default 10)\n"
    )


def test_a_command_without_flags_has_no_options() -> None:
    """Neither the usage line nor a table."""
    assert help_text(PS) == "Usage:  aruntime ps\n\nList containers\n"


def test_the_overview_lists_commands_and_groups() -> None:
    """Common ones first, groups by their first word, global options last."""
    text = overview(TABLE)
    assert "Common Commands:\n  ps  List containers\n" in text
    assert "\nCommands:\n  stop  Stop one or more running containers\n" in text
    assert "Command groups:\n  container  stop\n  network    ls, rm\n" in text
    assert "  -H, --host string   Daemon socket" in text
    assert text.index("Common") < text.index("Command groups") < text.index("Global Options")
    assert "  ls  List networks\n  rm  Remove networks" in group_text(
        "network", TABLE.subcommands("network")
    )


def test_a_line_finds_its_command() -> None:
    """One word, two words, aliases of both."""
    assert TABLE.find(["ps", "-a"]) == (PS, ["-a"])
    assert TABLE.find(["container", "stop", "x"]) == (STOP, ["x"])
    assert TABLE.find(["network", "list"]) == (NETWORK_LS, [])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "aruntime needs a command; see 'aruntime --help'"),
        (["stp"], "'stp' is not an aruntime command; did you mean 'stop'?"),
        (["xyzzy"], "'xyzzy' is not an aruntime command; see 'aruntime --help'"),
        (["network"], "a command must follow 'aruntime network'; see 'aruntime network --help'"),
        (["network", "x"], "'x' is not a command of 'aruntime network'; "
                           "see 'aruntime network --help'"),
    ],
)  # fmt: skip
def test_an_unknown_command_is_refused_with_advice(argv: list[str], message: str) -> None:
    """The nearest name, or where the help is."""
    with pytest.raises(UsageError) as caught:
        TABLE.find(argv)
    assert caught.value.message == message


def test_global_options_stand_before_the_command() -> None:
    """-H and --debug are read, the rest is left alone."""
    parsed = TABLE.split_globals(["-H", "unix:///x", "--debug", "run", "--debug", "-v"])
    assert parsed.string("host") == "unix:///x"
    assert parsed.boolean("debug")
    assert parsed.args == ["run", "--debug", "-v"]
    assert TABLE.split_globals(["-v"]).boolean("version")
    assert TABLE.split_globals(["--help"]).help
    with pytest.raises(UsageError, match="unknown flag: --nope; see 'aruntime --help'"):
        TABLE.split_globals(["--nope"])


def test_two_commands_of_one_name_are_a_mistake() -> None:
    """The table is checked when it is built."""
    with pytest.raises(ValueError, match="two commands are called ps"):
        registry([PS, PS])
