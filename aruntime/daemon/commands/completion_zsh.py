"""The completion script for zsh, made from the tables of commands. Pure.

Made of ``_arguments`` specifications (zshcompsys(1)); names of containers and images come from a
running daemon (``aruntime __complete``), which is never started for it.
"""

from __future__ import annotations

from aruntime.daemon.commands.completion_words import (
    DIRECTORIES,
    FILES,
    SHELLS,
    groups,
    names_of,
    shown_commands,
    shown_flags,
    values_of,
)
from aruntime.daemon.commands.flags import Command, Flag
from aruntime.daemon.commands.registry import GLOBAL_FLAGS, Registry

_HEAD = r"""#compdef aruntime
# zsh completion for aruntime, made by 'aruntime completion zsh'

# Names that a running daemon knows; none if no daemon answers.
_aruntime_names() {
  local address=${aruntime_host:-${ARUNTIME_HOST:-unix://${ARUNTIME_RUN_DIR:-/run/aruntime}/aruntime.sock}}
  local -a names
  names=(${(f)"$(aruntime --host "$address" __complete -- "$1" "$PREFIX" 2>/dev/null)"})
  (( $#names )) && compadd -a names
}

# A container with its colon, or a file of the host.
_aruntime_cp() {
  local address=${aruntime_host:-${ARUNTIME_HOST:-unix://${ARUNTIME_RUN_DIR:-/run/aruntime}/aruntime.sock}}
  local -a names
  names=(${(f)"$(aruntime --host "$address" __complete -- cp "$PREFIX" 2>/dev/null)"})
  (( $#names )) && compadd -S '' -a names
  _files
}

# Words that are known, and then the names of the first argument's kind.
_aruntime_words() {
  local kind=$1
  shift
  compadd -- "$@"
  _aruntime_names "$kind"
}

"""

_TAIL = r"""
_aruntime() {
  local curcontext=$curcontext state line aruntime_host
  typeset -A opt_args
  _arguments -C -A '-*' \
%(globals)s
    '1:command:_aruntime_commands' \
    '*::argument:->argument'
  if [[ $state == argument ]]; then
    aruntime_host=${opt_args[--host]:-$opt_args[-H]}
    _aruntime_command $words[1]
  fi
}

if [[ $funcstack[1] == _aruntime ]]; then
  _aruntime "$@"
else
  compdef _aruntime aruntime
fi
"""


def zsh_script(registry: Registry) -> str:
    """Write the script for all commands of the registry."""
    single = [
        (name, command)
        for command in shown_commands(registry)
        for name in command.names
        if " " not in name
    ]
    grouped = groups(registry)
    listed = {name: command.help for name, command in single}
    for word, commands in grouped.items():
        listed.setdefault(word, ", ".join(_second(word, commands)))
    return (
        _HEAD
        + _describe("_aruntime_commands", listed)
        + "".join(
            _describe(f"_aruntime_{word}_commands", _second(word, commands))
            for word, commands in sorted(grouped.items())
        )
        + "_aruntime_command() {\n  case $1 in\n"
        + "".join(_command_case(c) for c in shown_commands(registry))
        + "".join(_group_case(word) for word in sorted(grouped))
        + "  esac\n}\n"
        + _TAIL % {"globals": "\n".join(f"    {_option(flag)} \\" for flag in GLOBAL_FLAGS)}
    )


def _second(word: str, commands: list[Command]) -> dict[str, str]:
    return {
        name.partition(" ")[2]: command.help
        for command in commands
        for name in command.names
        if name.startswith(f"{word} ")
    }


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _escaped(text: str) -> str:
    """Escape what ends a part of a specification."""
    for character in "\\:[]":
        text = text.replace(character, f"\\{character}")
    return text


def _describe(function: str, entries: dict[str, str]) -> str:
    lines = [
        f"    {_quoted(f'{name}:{_escaped(text)}')}\n" for name, text in sorted(entries.items())
    ]
    return (
        f"{function}() {{\n  local -a commands\n  commands=(\n{''.join(lines)}  )\n"
        "  _describe -t commands command commands\n}\n\n"
    )


def _command_case(command: Command) -> str:
    names = "|".join(_quoted(name) if " " in name else name for name in command.names)
    specs = [_option(flag) for flag in shown_flags(command)]
    specs += [
        _quoted(f"!--{alias}{'' if flag.kind == 'bool' else f'=:value:{_action(flag)}'}")
        for flag in shown_flags(command)
        for alias in flag.aliases
    ]
    specs.append("'--help[Print usage]'")
    specs += _arguments(command)
    options = "" if command.interspersed else " -A '-*'"
    body = " \\\n".join(f"        {spec}" for spec in specs)
    return f"    {names})\n      _arguments -s -S{options} \\\n{body} ;;\n"


def _group_case(word: str) -> str:
    return (
        f"    {word})\n"
        "      local curcontext=$curcontext state line\n"
        f"      _arguments -C '1:command:_aruntime_{word}_commands' '*::argument:->argument'\n"
        f'      [[ $state == argument ]] && _aruntime_command "{word} $words[1]" ;;\n'
    )


def _arguments(command: Command) -> list[str]:
    """Specifications of the positional arguments."""
    names = f" _aruntime_names {command.completes}"  # a blank first: no arguments are put in
    if command.completes == "shells":
        names = f"({' '.join(SHELLS)})"
    if command.completes == FILES:
        return ["'*:file:_files'"]
    if command.completes == "cp":
        return ["'1:source:_aruntime_cp'", "'2:destination:_aruntime_cp'"]
    if not command.completes:
        return []
    if not command.interspersed:
        return [f"'1:{command.completes}:{names}'", "'*::command:_normal'"]
    if command.maximum is not None:
        return [f"'{n}:{command.completes}:{names}'" for n in range(1, command.maximum + 1)]
    return [f"'*:{command.completes}:{names}'"]


def _option(flag: Flag) -> str:
    """Specification of one flag: both forms, text, what its value is."""
    many = flag.kind in {"list", "map", "filter"}
    takes = flag.kind != "bool"
    long = f"--{flag.name}{'=' if takes else ''}"
    tail = f"[{_escaped(flag.help)}]"
    if takes:
        tail += f":{_escaped(flag.metavar or flag.kind)}:{_action(flag)}"
    if not flag.short:
        return _quoted(f"{'*' if many else ''}{long}{tail}")
    short = f"-{flag.short}{'+' if takes else ''}"
    head = "'*'" if many else _quoted(f"(-{flag.short} --{flag.name})")
    return f"{head}{{{short},{long}}}{_quoted(tail)}"


def _action(flag: Flag) -> str:
    values = values_of(flag)
    if values == FILES:
        return "_files"
    if values == DIRECTORIES:
        return "_files -/"
    if names_of(flag):
        return f" _aruntime_words {names_of(flag)} {_escaped(values)}"
    return f"({_escaped(values)})" if values else " "
