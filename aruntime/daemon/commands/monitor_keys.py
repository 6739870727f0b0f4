"""What is typed at ``aruntime monitor``: bytes become keys, keys change what is shown. Pure."""

from __future__ import annotations

import msgspec

SORTS = {
    "c": "cpu",
    "m": "memory",
    "d": "disk",
    "n": "network",
    "o": "cost",
    "a": "name",
    "t": "tenant",
}
"""Keys that sort, and by what."""
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page-up", "page-down", "home", "end"
ENTER, ESCAPE, BACKSPACE = "enter", "escape", "backspace"
_SEQUENCES = {
    b"\033[A": UP, b"\033OA": UP, b"\033[B": DOWN, b"\033OB": DOWN,
    b"\033[5~": PAGE_UP, b"\033[6~": PAGE_DOWN,
    b"\033[H": HOME, b"\033OH": HOME, b"\033[1~": HOME,
    b"\033[F": END, b"\033OF": END, b"\033[4~": END,
}  # fmt: skip
"""xterm's, in both modes of its cursor keys, and the Linux console's."""
_CONTROLS = {0x0D: ENTER, 0x0A: ENTER, 0x7F: BACKSPACE, 0x08: BACKSPACE, 0x1B: ESCAPE}
_INTERRUPTS = frozenset({0x03, 0x04, 0x1C})
"""ctrl-c, ctrl-d, ctrl-\\: the terminal is raw, so they come as bytes."""
QUIT, TOGGLE = "quit", "toggle"
FILTER_LIMIT = 64


def decode(chunk: bytes) -> list[str]:
    """Turn what a terminal sent at a time into keys; what is no key is left out.

    A key's sequence comes in one piece. An escape that begins none is the key itself.
    """
    keys = []
    rest = chunk
    while rest:
        if rest[0] in _INTERRUPTS:
            keys.append(QUIT)
        elif rest[0] == 0x1B and len(rest) > 1 and rest[1:2] in (b"[", b"O"):
            length = _sequence_length(rest)
            found = _SEQUENCES.get(rest[:length])
            keys += [found] if found else []
            rest = rest[length:]
            continue
        elif rest[0] in _CONTROLS:
            keys.append(_CONTROLS[rest[0]])
        elif rest[0] >= 0x20:
            text = rest.decode(errors="ignore")
            keys += [text[0]] if text else []
            rest = rest[len(text[0].encode()) if text else len(rest) :]
            continue
        rest = rest[1:]
    return keys


def _sequence_length(sequence: bytes) -> int:
    """Bytes up to the final one of a control sequence (ECMA-48: 0x40 to 0x7e)."""
    for place in range(2, len(sequence)):
        if 0x40 <= sequence[place] <= 0x7E:
            return place + 1
    return len(sequence)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """How the list is shown."""

    sort: str = "cpu"
    reverse: bool = False
    filter: str = ""
    """Part of a name, tenant, image or state that shown containers have."""
    is_typing: bool = False
    """Whether keys are the filter's."""
    selected: str = ""
    """Id of a container; the first if it is not there."""
    message: str = ""
    """What the last operation said."""


def press(view: View, key: str, shown: list[str], page: int) -> tuple[View, str]:
    """Return the view after a key, and what else is to be done: QUIT, TOGGLE or nothing.

    Args:
        view: as it is.
        key: of :func:`decode`.
        shown: ids of the containers in the list, in order.
        page: lines of the list that fit the screen.
    """
    view = msgspec.structs.replace(view, message="")
    if key == QUIT:
        return view, QUIT
    if view.is_typing:
        return _type(view, key), ""
    if key == "q":
        return view, QUIT
    if key in ("p", " "):
        return view, TOGGLE
    changes: dict[str, object] = {}
    if key == "/":
        changes = {"is_typing": True}
    elif key == ESCAPE:
        changes = {"filter": ""}
    elif key == "r":
        changes = {"reverse": not view.reverse}
    elif key in SORTS:
        changes = {"sort": SORTS[key], "reverse": False}
    elif shown and (place := _moved(view, key, shown, page)) is not None:
        changes = {"selected": shown[max(0, min(place, len(shown) - 1))]}
    return msgspec.structs.replace(view, **changes), ""


def _type(view: View, key: str) -> View:
    if key == ENTER:
        return msgspec.structs.replace(view, is_typing=False)
    if key == ESCAPE:
        return msgspec.structs.replace(view, is_typing=False, filter="")
    if key == BACKSPACE:
        return msgspec.structs.replace(view, filter=view.filter[:-1])
    if len(key) == 1 and key.isprintable():
        return msgspec.structs.replace(view, filter=(view.filter + key)[:FILTER_LIMIT])
    return view


def _moved(view: View, key: str, shown: list[str], page: int) -> int | None:
    place = shown.index(view.selected) if view.selected in shown else 0
    steps = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -page, PAGE_DOWN: page}
    if key in steps:
        return place + steps[key]
    return {HOME: 0, END: len(shown) - 1}.get(key)
