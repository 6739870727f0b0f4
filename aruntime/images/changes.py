"""Dockerfile instructions given with ``--change``: what they do to an image's configuration.

The configuration is docker's JSON object (``Cmd``, ``Env`` …), so that the same functions serve
``import`` and ``commit``. Instructions that need a build (RUN, COPY, FROM …) are refused: buildah
and docker build images, we run them. Source: Dockerfile reference (docs.docker.com).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aruntime.errors import InvalidParameter

SHELL = ["/bin/sh", "-c"]
_WORD = re.compile(r"""(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'\\])+|\S""", re.DOTALL)
_PART = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|(?:\\.|[^"'\\])+""", re.DOTALL)
"""A stretch of a word that is quoted in one way."""
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_EXPANDED = re.compile(
    r"\\(?P<escaped>.)|\$(?P<name>[A-Za-z_]\w*)"
    r"|\$\{(?P<braced>[A-Za-z_]\w*)(?:(?P<mode>:[-+])(?P<other>[^}]*))?\}",
    re.DOTALL,
)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip
_HEALTH_FLAGS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}

Config = dict[str, Any]


def apply_changes(config: Mapping[str, Any], changes: Iterable[str]) -> Config:
    """Apply instructions, in order, to a configuration; the given one is left as it is.

    Raises:
        InvalidParameter: an instruction is unknown or malformed; the message quotes it.
    """
    changed: Config = json.loads(json.dumps(dict(config)))
    for change in changes:
        for line in _logical_lines(change):
            word, _, rest = line.partition(" ")
            instruction = _INSTRUCTIONS.get(word.upper())
            if instruction is None:
                known = ", ".join(_INSTRUCTIONS)
                raise InvalidParameter(f"{word} is not a valid change: use one of {known}")
            try:
                instruction(changed, rest.strip())
            except ValueError as error:
                raise InvalidParameter(f"invalid change {line!r}: {error}") from None
    return changed


def _logical_lines(text: str) -> list[str]:
    joined = re.sub(r"\\[ \t]*\n", "", text)
    lines = [line.strip().replace("\t", " ", 1) for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _json_words(text: str) -> list[str] | None:
    """Read the JSON form; None if the text is no JSON list of strings (then it is the other)."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        return found
    return None


def _command(config: Config, text: str) -> list[str]:
    words = _json_words(text)
    if words is not None:
        return words
    if not text:
        raise ValueError("a command is missing")
    return [*(config.get("Shell") or SHELL), text]


def _cmd(config: Config, text: str) -> None:
    config["Cmd"] = _command(config, text)


def _entrypoint(config: Config, text: str) -> None:
    config["Entrypoint"] = _command(config, text)


def _environment(config: Config) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.get("Env") or ())


def _unquote(word: str, config: Config) -> str:
    """Take the quotes and escapes of a word away and expand its variables."""
    environment = _environment(config)

    def value(match: re.Match[str]) -> str:
        if match["escaped"] is not None:
            return match["escaped"]
        found = environment.get(match["name"] or match["braced"], "")
        if match["mode"] == ":-":
            return found or match["other"]
        if match["mode"] == ":+":
            return match["other"] if found else ""
        return found

    parts = _PART.findall(word)
    if sum(map(len, parts)) < len(word):
        raise ValueError(f"unbalanced quotes in {word}")
    found = ""
    for part in parts:
        if part[0] == "'":
            found += part[1:-1]
        else:
            found += _EXPANDED.sub(value, part[1:-1] if part[0] == '"' else part)
    return found


def _words(config: Config, text: str) -> list[str]:
    words = [_unquote(word, config) for word in _WORD.findall(text)]
    if not words:
        raise ValueError("an argument is missing")
    return words


def _pairs(config: Config, text: str) -> dict[str, str]:
    """Read ``k=v k2="v 2"``, or the old form ``k the rest``."""
    first = _WORD.match(text)
    if first is None:
        raise ValueError("an argument is missing")
    if "=" not in first[0]:
        rest = text[first.end() :].strip()
        if not rest:
            raise ValueError(f"{first[0]} needs a value")
        return {first[0]: _unquote(rest, config)}
    found: dict[str, str] = {}
    for word in _words(config, text):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word} is not KEY=VALUE")
        found[key] = value
    return found


def _env(config: Config, text: str) -> None:
    merged = {**_environment(config), **_pairs(config, text)}
    config["Env"] = [f"{key}={value}" for key, value in merged.items()]


def _label(config: Config, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **_pairs(config, text)}


def _expose(config: Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _words(config, text):
        match = _PORT.fullmatch(word.lower())
        if match is None:
            raise ValueError(f"{word} is not a port")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 < first <= last < 1 << 16:
            raise ValueError(f"{word} is not a port")
        for port in range(first, last + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    config["ExposedPorts"] = ports


def _user(config: Config, text: str) -> None:
    config["User"] = _only(config, text)


def _workdir(config: Config, text: str) -> None:
    path = _unquote(text, config)
    if not path:
        raise ValueError("a directory is missing")
    config["WorkingDir"] = posixpath.normpath(
        posixpath.join("/", config.get("WorkingDir") or "/", path)
    ).replace("//", "/")


def _volume(config: Config, text: str) -> None:
    paths = _json_words(text) or _words(config, text)
    if not all(paths):
        raise ValueError("a volume needs a path")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}


def _stopsignal(config: Config, text: str) -> None:
    config["StopSignal"] = _only(config, text)


def _onbuild(config: Config, text: str) -> None:
    if not text:
        raise ValueError("an instruction is missing")
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _shell(config: Config, text: str) -> None:
    words = _json_words(text)
    if not words:
        raise ValueError("SHELL takes a JSON list of strings")
    config["Shell"] = words


def _healthcheck(config: Config, text: str) -> None:
    found: dict[str, Any] = {}
    while text.startswith("--"):
        flag, _, text = text.partition(" ")
        name, equals, value = flag[2:].partition("=")
        if name not in _HEALTH_FLAGS or not equals:
            raise ValueError(f"unknown option {flag}")
        found[_HEALTH_FLAGS[name]] = _retries(value) if name == "retries" else _nanoseconds(value)
        text = text.strip()
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE" and not rest and not found:
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD" or not rest.strip():
        raise ValueError("HEALTHCHECK needs CMD and a command, or NONE")
    words = _json_words(rest.strip())
    test = ["CMD", *words] if words is not None else ["CMD-SHELL", rest.strip()]
    config["Healthcheck"] = {"Test": test, **found}


def _retries(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise ValueError("--retries takes a number from 1 on")
    return int(text)


def _nanoseconds(text: str) -> int:
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text} is not a duration such as 30s")
    found = round(sum(float(n) * _UNITS_NS[unit] for n, unit in _DURATION_PART.findall(text)))
    if found < 1_000_000:
        raise ValueError(f"{text} is shorter than 1ms")
    return found


def _only(config: Config, text: str) -> str:
    words = _words(config, text)
    if len(words) != 1 or not words[0]:
        raise ValueError("exactly one argument is needed")
    return words[0]


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
