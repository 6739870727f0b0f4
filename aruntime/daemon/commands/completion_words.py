"""What completion scripts are made from: shown flags and the values they take. Pure."""

from __future__ import annotations

import signal

from aruntime.daemon.commands.flags import Command, Flag
from aruntime.daemon.commands.registry import Registry
from aruntime.kernel.capabilities import NAMES

FILES = "files"
DIRECTORIES = "directories"
NOTHING = ""

_FILES = frozenset(
    {
        "cidfile",
        "config",
        "env-file",
        "file",
        "input",
        "label-file",
        "mount",
        "output",
        "prices",
        "volume",
    }
)  # fmt: skip
_DIRECTORIES = frozenset({"root", "run-dir"})
_CAPABILITIES = " ".join(["ALL", *(name.removeprefix("CAP_") for name in NAMES)])
_SIGNALS = " ".join(entry.name.removeprefix("SIG") for entry in signal.Signals)

_WORDS = {
    "attach": "stdin stdout stderr",
    "by": "container label: tenant",
    "cap-add": _CAPABILITIES,
    "cap-drop": _CAPABILITIES,
    "cgroupns": "host private",
    "format": "json table",
    "ipc": "host none private",
    "log-driver": "json-file",
    "log-format": "console json",
    "log-opt": "max-file= max-size= mode=blocking mode=non-blocking",
    "network": "bridge container: host none",
    "pid": "container: host",
    "restart": "always no on-failure unless-stopped",
    "security-opt": "no-new-privileges seccomp= seccomp=unconfined systempaths=unconfined",
    "signal": _SIGNALS,
    "stop-signal": _SIGNALS,
    "type": "container image network volume",
    "userns": "auto host",
    "uts": "host",
}

_NAMES = {"network": "networks"}
"""Flags whose values a running daemon knows more of, and what it calls them."""

SHELLS = ("bash", "zsh")


def shown_commands(registry: Registry) -> list[Command]:
    """Commands that completion offers, by name."""
    return sorted((c for c in registry if not c.hidden), key=lambda command: command.name)


def shown_flags(command: Command) -> list[Flag]:
    """Flags that completion offers, by name."""
    flags = [flag for flag in command.flags if not flag.hidden and not flag.refused]
    return sorted(flags, key=lambda flag: flag.name)


def groups(registry: Registry) -> dict[str, list[Command]]:
    """Commands of two words by their first one."""
    found: dict[str, list[Command]] = {}
    for command in shown_commands(registry):
        for name in command.names:
            if " " in name:
                found.setdefault(name.partition(" ")[0], []).append(command)
    return found


def names_of(flag: Flag) -> str:
    """Say what a running daemon is to be asked for beside the known values, or NOTHING."""
    return _NAMES.get(flag.name, NOTHING)


def values_of(flag: Flag) -> str:
    """Say what the value of a flag may be: FILES, DIRECTORIES, words, or NOTHING known."""
    if flag.choices:
        return " ".join(flag.choices)
    if flag.name in _FILES:
        return FILES
    if flag.name in _DIRECTORIES:
        return DIRECTORIES
    return _WORDS.get(flag.name, NOTHING)
