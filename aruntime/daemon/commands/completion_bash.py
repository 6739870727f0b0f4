"""The completion script for bash, made from the tables of commands. Pure.

The script knows commands, flags and fixed values by itself; for names of containers and images
it asks a running daemon (``aruntime __complete``) and never starts one. It reads the line as
typed (COMP_LINE) since bash takes words apart at ``:`` and ``=``. Needs bash 4.3, not the
bash-completion package.
"""

from __future__ import annotations

from aruntime.daemon.commands.completion_words import (
    DIRECTORIES,
    FILES,
    groups,
    names_of,
    shown_commands,
    shown_flags,
    values_of,
)
from aruntime.daemon.commands.flags import Command
from aruntime.daemon.commands.registry import GLOBAL_FLAGS, Registry

_HEAD = r"""# bash completion for aruntime, made by 'aruntime completion bash'

# Names that a running daemon knows; none if no daemon answers.
__aruntime_names() {
    local address=${host:-${ARUNTIME_HOST:-unix://${ARUNTIME_RUN_DIR:-/run/aruntime}/aruntime.sock}}
    aruntime --host "$address" __complete -- "$1" "$cur" 2>/dev/null
}

# Offer the words on standard input that begin with the current one. Readline replaces only
# what follows the last : or =, so what stands before it is cut off.
__aruntime_offer() {
    local word trim="" rest=$cur
    while [[ $rest =~ ^([^:=]*[:=])(.*)$ && $COMP_WORDBREAKS == *"${BASH_REMATCH[1]: -1}"* ]]; do
        trim+=${BASH_REMATCH[1]}
        rest=${BASH_REMATCH[2]}
    done
    while IFS= read -r word; do
        [[ $word == "$cur"* ]] && COMPREPLY+=("${word#"$trim"}")
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}

__aruntime_words() {
    local IFS=$' \t\n'
    __aruntime_offer < <(printf '%s\n' $1)
}

__aruntime_paths() {
    local path
    compopt -o filenames 2>/dev/null
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen "$1" -- "${cur##*[:=]}")
}

# The values of a flag, by its long name.
__aruntime_values() {
    case $1 in
"""

_TAIL = r"""
_aruntime() {
    local line=${COMP_LINE:0:COMP_POINT} cur="" host="" command="" word name prefix
    local subcommands="" flags="" valued="" letters="" completes="" strict="" most=-1
    local -a words=()
    COMPREPLY=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur=${words[-1]}
    words=("${words[@]:1:${#words[@]}-2}")

    local at=0 count=${#words[@]}
    while ((at < count)); do
        case ${words[at]} in
            -H|--host) host=${words[at+1]-}; ((++at)) ;;
            --host=*) host=${words[at]#*=} ;;
            -H?*) host=${words[at]#-H} ;;
            -*) ;;
            *) break ;;
        esac
        ((++at))
    done
    if ((at > count)); then return; fi
    if ((at == count)); then
        if [[ $cur == -* ]]; then __aruntime_words "$__aruntime_globals"
        else __aruntime_words "$__aruntime_commands"; fi
        return
    fi
    command=${words[at]}
    ((++at))
    if __aruntime_group "$command"; then
        if ((at == count)); then __aruntime_words "$subcommands"; return; fi
        command+=" ${words[at]}"
        ((++at))
    fi
    __aruntime_command "$command" || return

    local arguments=0 ended="" waiting=""
    while ((at < count)); do
        word=${words[at]}
        ((++at))
        if [[ -n $waiting ]]; then waiting=""; continue; fi
        if [[ -n $ended || $word != -?* ]]; then
            ((++arguments))
            [[ -n $strict ]] && ended=1
        elif [[ $word == -- ]]; then ended=1
        elif [[ $word == --* ]]; then
            [[ $word != *=* && $valued == *" ${word#--} "* ]] && waiting=${word#--}
        else __aruntime_short "${word#-}"; fi
    done

    if [[ -n $waiting ]]; then __aruntime_values "$waiting"
    elif [[ -z $ended && $cur == --*=* ]]; then
        name=${cur%%=*}
        cur=${cur#*=}
        [[ $COMP_WORDBREAKS != *=* ]] && prefix="$name=" || prefix=""
        __aruntime_values "${name#--}"
        [[ -n $prefix ]] && COMPREPLY=("${COMPREPLY[@]/#/$prefix}")
    elif [[ -z $ended && $cur == -* ]]; then __aruntime_words "$flags"
    elif [[ -n $strict && $arguments -gt 0 ]]; then compopt -o default 2>/dev/null
    elif ((most >= 0 && arguments >= most)); then return
    elif [[ $completes == files ]]; then __aruntime_paths -f
    elif [[ $completes == shells ]]; then __aruntime_words 'bash zsh'
    elif [[ $completes == cp ]]; then
        __aruntime_offer < <(__aruntime_names cp)
        __aruntime_paths -f
    elif [[ -n $completes ]]; then __aruntime_offer < <(__aruntime_names "$completes")
    fi
}

complete -F _aruntime aruntime
"""


def bash_script(registry: Registry) -> str:
    """Write the script for all commands of the registry."""
    grouped = groups(registry)
    single = {
        name: command
        for command in shown_commands(registry)
        for name in command.names
        if " " not in name
    }
    global_names = " ".join(f"--{flag.name}" for flag in GLOBAL_FLAGS) + " --help"
    return (
        _HEAD
        + _value_cases(registry)
        + "    esac\n}\n\n"
        + f"__aruntime_commands='{' '.join(sorted({*single, *grouped}))}'\n"
        + f"__aruntime_globals='{global_names}'\n\n"
        + _group_function(grouped)
        + _SHORT
        + "# What is known of a command, as variables of the caller.\n"
        + "__aruntime_command() {\n    case $1 in\n"
        + "".join(_command_case(command) for command in shown_commands(registry))
        + "        *) return 1 ;;\n    esac\n}\n"
        + _TAIL
    )


_SHORT = r"""# Read joined short flags: sets waiting if the last of them takes the next word.
__aruntime_short() {
    local group=$1 letter entry
    while [[ -n $group ]]; do
        letter=${group:0:1}
        group=${group:1}
        for entry in $letters; do
            if [[ $entry == "$letter:"* ]]; then
                [[ -z $group ]] && waiting=${entry#*:}
                return
            fi
        done
    done
}

"""


def _value_cases(registry: Registry) -> str:
    """One line of a case for every flag whose values are known."""
    flags = {flag.name: flag for c in shown_commands(registry) for flag in shown_flags(c)}
    lines = []
    for flag in (flags[name] for name in sorted(flags)):
        names, values = "|".join((flag.name, *flag.aliases)), values_of(flag)
        if values == FILES:
            lines.append(f"        {names}) __aruntime_paths -f ;;\n")
        elif values == DIRECTORIES:
            lines.append(f"        {names}) __aruntime_paths -d ;;\n")
        elif values:
            asked = names_of(flag)
            more = f"; __aruntime_offer < <(__aruntime_names {asked})" if asked else ""
            lines.append(f"        {names}) __aruntime_words '{values}'{more} ;;\n")
    return "".join(lines)


def _group_function(grouped: dict[str, list[Command]]) -> str:
    """A function that knows the second words of a first one."""
    lines = [
        f"        {word}) subcommands='{' '.join(_second_words(word, commands))}' ;;\n"
        for word, commands in sorted(grouped.items())
    ]
    return (
        "# Whether a word needs a second one; the choice goes to subcommands.\n"
        "__aruntime_group() {\n    case $1 in\n"
        + "".join(lines)
        + "        *) return 1 ;;\n    esac\n}\n\n"
    )


def _second_words(word: str, commands: list[Command]) -> list[str]:
    names = {name for command in commands for name in command.names}
    return sorted(name.partition(" ")[2] for name in names if name.startswith(f"{word} "))


def _command_case(command: Command) -> str:
    """The facts of one command as shell assignments."""
    flags = shown_flags(command)
    names = "|".join(f"'{name}'" if " " in name else name for name in command.names)
    shown = [f"--{flag.name}" for flag in flags] + ["--help"]
    valued = [name for flag in flags if flag.kind != "bool" for name in (flag.name, *flag.aliases)]
    letters = [f"{flag.short}:{flag.name}" for flag in flags if flag.short and flag.kind != "bool"]
    lines = [
        f"        {names})",
        f"            flags='{' '.join(shown)}'",
        f"            valued=' {' '.join(valued)} '",
        f"            letters='{' '.join(letters)}'",
        f"            completes='{command.completes}'",
        f"            strict='{'' if command.interspersed else '1'}'",
        f"            most={-1 if command.maximum is None else command.maximum} ;;",
    ]
    return "\n".join(lines) + "\n"
