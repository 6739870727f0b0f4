"""``history``: what each step of an image's making did and how much it added.

docker's columns and fields. The history of an image and its layers are two lists: a step says
whether it made a layer. Pure but for the command itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from aruntime.daemon.commands import values
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.image_rows import NANOSECONDS, created_since
from aruntime.daemon.commands.listing import Row, render_rows
from aruntime.daemon.session import Session
from aruntime.images import reference
from aruntime.images.image import History, Image, parse_time_ns

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

MISSING = "<missing>"
SHOWN = 45
"""Characters of a command in the table (docker's)."""
TABLE = r"{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
TITLES = {
    "Comment": "COMMENT",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "CreatedSince": "CREATED",
    "ID": "IMAGE",
    "Size": "SIZE",
}


def steps(image: Image) -> Iterator[tuple[History, int]]:
    """Yield each step of an image's making with the bytes it added, the first one first.

    Layers that no step accounts for are steps about which nothing is known.
    """
    sizes = list(image.layer_sizes)
    for step in image.history:
        yield step, sizes.pop(0) if sizes and not step.empty_layer else 0
    for size in sizes:
        yield History(), size


def history_rows(image: Image, *, now_ns: int, human: bool, whole: bool) -> list[Row]:
    """Return the rows of an image's history, the last step first.

    Args:
        image: the image.
        now_ns: Unix time, for ages.
        human: sizes and dates for people.
        whole: nothing is cut.
    """
    rows: list[Row] = []
    for step, size in reversed(list(steps(image))):
        command = (step.created_by or "").replace("\t", " ")
        created_ns = parse_time_ns(step.created or "")
        at = _created_at(created_ns)
        rows.append(
            {
                "Comment": values.escape_controls(step.comment or ""),
                "CreatedAt": at,
                "CreatedBy": values.escape_controls(command if whole else _cut(command)),
                "CreatedSince": created_since(created_ns, now_ns) if human else at,
                "ID": MISSING if rows else image.id if whole else reference.short_id(image.id),
                "Size": values.format_size(size) if human else str(size),
            }
        )
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _created_at(time_ns: int) -> str:
    if not time_ns:
        return "N/A"
    return datetime.fromtimestamp(time_ns // NANOSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def run_history(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show how an image was made."""
    image = await trio.to_thread.run_sync(daemon.images.resolve, parsed.args[0])
    shown = parsed.string("format")
    rows = history_rows(
        image,
        now_ns=time.time_ns(),
        human=parsed.boolean("human"),
        whole=parsed.boolean("no-trunc"),
    )
    if parsed.boolean("quiet") and not shown:
        shown = "{{.ID}}"
    await session.out(render_rows(rows, format=shown, titles=TITLES, table=TABLE))
    return 0


COMMANDS = [
    Command(
        "history", "Show the history of an image", run_history, "IMAGE",
        (
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("human", "H", "bool", True, help="Print sizes and dates in human readable form"),
            Flag("no-trunc", "", "bool", help="Don't truncate output"),
            Flag("quiet", "q", "bool", help="Only show image IDs"),
        ),
        minimum=1, maximum=1, completes="images",
    ),
]  # fmt: skip
