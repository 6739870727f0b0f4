"""The text of ``--help``, in docker's shape.

Usage, one line, the longer text, aliases, a table of options with metavars and defaults; and
the overview of all commands. Pure: commands in, text out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from aruntime.daemon.commands.flags import PROGRAM, Command, Flag
from aruntime.daemon.commands.registry import GLOBAL_FLAGS, Registry
from aruntime.daemon.commands.values import format_duration

SUMMARY = "A container runtime that knows what each container used"

_METAVARS = {
    "bool": "",
    "map": "list",
    "bytes_or_unlimited": "bytes",
    "choice": "string",
}

_SECTIONS = (
    ("common", "Common Commands"),
    ("management", "Management Commands"),
    ("", "Commands"),
)


def help_text(command: Command, columns: int = 80) -> str:
    """Write the help of one command for a terminal of the given width."""
    shown = [flag for flag in command.flags if not flag.hidden and not flag.refused]
    options = "[OPTIONS] " if shown else ""
    usage = f"Usage:  {PROGRAM} {command.name} {options}{command.usage}".rstrip()
    parts = [usage, command.help]
    if command.description:
        parts.append(command.description)
    if command.aliases:
        names = ", ".join(f"{PROGRAM} {name}" for name in command.names)
        parts.append(f"Aliases:\n  {names}")
    if shown:
        parts.append("Options:\n" + option_table(shown, columns))
    return "\n\n".join(parts) + "\n"


def group_text(group: str, commands: Mapping[str, Command]) -> str:
    """Write the help of a word that needs a second one (``aruntime network``)."""
    rows = [(word, command.help) for word, command in commands.items()]
    parts = [
        f"Usage:  {PROGRAM} {group} COMMAND",
        "Commands:\n" + _two_columns(rows),
        f"Run '{PROGRAM} {group} COMMAND --help' for more information on a command.",
    ]
    return "\n\n".join(parts) + "\n"


def overview(registry: Registry, columns: int = 80) -> str:
    """Write what ``aruntime --help`` shows."""
    parts = [f"Usage:  {PROGRAM} [OPTIONS] COMMAND", SUMMARY]
    for section, title in _SECTIONS:
        rows = [
            (command.name, command.help)
            for command in registry
            if command.section == section and not command.hidden and " " not in command.name
        ]
        if rows:
            parts.append(f"{title}:\n" + _two_columns(rows if section else sorted(rows)))
    rows = [(group, ", ".join(registry.subcommands(group))) for group in registry.groups()]
    if rows:
        parts.append("Command groups:\n" + _wrapped_columns(rows, columns))
    parts.append("Global Options:\n" + option_table(GLOBAL_FLAGS, columns))
    parts.append(f"Run '{PROGRAM} COMMAND --help' for more information on a command.")
    return "\n\n".join(parts) + "\n"


def option_table(flags: Sequence[Flag], columns: int) -> str:
    """Write the table of options: short and long name, metavar, text, default."""
    rows = [(_left(flag), flag.help + _default(flag)) for flag in sorted(flags, key=_by_name)]
    margin = max(len(left) for left, _ in rows) + 3
    width = max(columns - margin, 24)
    lines: list[str] = []
    for left, text in rows:
        first, *more = textwrap.wrap(text, width, break_long_words=False) or [""]
        lines.append(f"{left:{margin}}{first}".rstrip())
        lines += [" " * margin + line for line in more]
    return "\n".join(lines)


def _by_name(flag: Flag) -> str:
    return flag.name


def _left(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    metavar = flag.metavar or _METAVARS.get(flag.kind, flag.kind)
    return f"  {short}--{flag.name} {metavar}".rstrip()


def _default(flag: Flag) -> str:
    default = flag.default
    if not default or isinstance(default, (list, dict)):
        return ""
    if flag.kind == "duration":
        return f" (default {format_duration(default)})"
    if flag.kind == "bool":
        return " (default true)"
    return f' (default "{default}")' if isinstance(default, str) else f" (default {default})"


def _wrapped_columns(rows: Sequence[tuple[str, str]], columns: int) -> str:
    """Two columns, the right one on as many lines as it takes."""
    margin = max(len(left) for left, _ in rows) + 4
    lines: list[str] = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, max(columns - margin, 24))
        lines += [f"  {left:{margin - 2}}{first}", *(" " * margin + line for line in more)]
    return "\n".join(lines)


def _two_columns(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:{width}}  {right}" for left, right in rows)
