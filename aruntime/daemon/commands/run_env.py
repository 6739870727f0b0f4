"""Environment of a container and the files that list variables and labels. Pure.

Sources: docker's env-file format (cli, kvfile) and its merge of image and user environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aruntime.errors import InvalidParameter


def parse_key_values(path: str, content: bytes, env: Mapping[str, str] | None) -> list[str]:
    """Read a file of ``NAME=value`` lines; ``#`` begins a comment line.

    Args:
        path: for messages.
        content: of the file.
        env: where a NAME alone finds its value, else it is left out; None: it stays as it is.

    Raises:
        InvalidParameter: naming the line.
    """
    lines: list[str] = []
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip(" \t")
        except UnicodeDecodeError:
            raise InvalidParameter(
                f"invalid env file ({path}): invalid utf8 bytes at line {number}"
            ) from None
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise InvalidParameter(f"invalid env file ({path}): no variable name on line '{line}'")
        if name != name.rstrip() or any(c.isspace() for c in name) or "\0" in line:
            raise InvalidParameter(
                f"invalid env file ({path}): variable '{name}' contains whitespaces"
            )
        if equals:
            lines.append(f"{name}={value}")
        elif env is None:
            lines.append(name)
        elif name in env:
            lines.append(f"{name}={env[name]}")
    return lines


def merge_env(
    defaults: Iterable[str], overrides: Iterable[str], env: Mapping[str, str]
) -> list[str]:
    """Lay variables over others: a value replaces, a NAME alone takes the caller's or removes.

    Entries of ``defaults`` without ``=`` are dropped; the order of first mention stays.
    """
    found: dict[str, str] = {}
    for entry in defaults:
        name, equals, _ = entry.partition("=")
        if name and equals:
            found[name] = entry
    for entry in overrides:
        name, equals, _ = entry.partition("=")
        if equals:
            found[name] = entry
        elif name in env:
            found[name] = f"{name}={env[name]}"
        else:
            found.pop(name, None)
    return list(found.values())
