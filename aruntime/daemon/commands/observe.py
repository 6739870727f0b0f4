"""stats, top, events: what containers do at the moment."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import trio

from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.listing import line_template, render_rows
from aruntime.daemon.commands.logs import moment
from aruntime.daemon.commands.template_values import render
from aruntime.daemon.commands.values import format_bytes, format_size
from aruntime.daemon.events import Event
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.daemon.record import Container
from aruntime.daemon.session import Session
from aruntime.errors import Conflict, InvalidParameter, Unavailable
from aruntime.metering.host import memory_bytes
from aruntime.metering.snapshot import Snapshot

if TYPE_CHECKING:
    from aruntime.daemon.compose import Daemon

STATS_COLUMNS = (
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t"
    "{{.PIDs}}"
)
STATS_TITLES = {
    "ID": "CONTAINER ID", "Container": "CONTAINER", "Name": "NAME", "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
}  # fmt: skip
CLEAR_SCREEN = "\033[H\033[J"
FIRST_INTERVAL_SECONDS = 0.5
EVENT_FILTERS = frozenset({"container", "event", "type", "label", "image", "name"})


def stats_row(
    container: Container,
    now: Snapshot | None,
    before: Snapshot | None,
    host_memory: int,
    *,
    truncate: bool = True,
) -> dict[str, Any]:
    """Return docker's columns from two readings; CPU % is of one CPU."""
    percent = 0.0
    if now is not None and before is not None and now.boot_ns > before.boot_ns:
        used = now.totals.cpu_ns - before.totals.cpu_ns
        percent = 100 * used / (now.boot_ns - before.boot_ns)
    memory = now.memory_working_set_bytes if now is not None else 0
    limit = (now.memory_limit_bytes if now is not None else 0) or host_memory
    read, written = block_bytes(now)
    received, sent = network_bytes(now)
    shown = container.short_id if truncate else container.id
    return {
        "ID": shown,
        "Container": shown,
        "Name": container.config.name,
        "CPUPerc": f"{percent:.2f}%",
        "MemUsage": f"{format_bytes(memory)} / {format_bytes(limit)}",
        "MemPerc": f"{100 * memory / limit if limit else 0:.2f}%",
        "NetIO": f"{format_size(received)} / {format_size(sent)}",
        "BlockIO": f"{format_size(read)} / {format_size(written)}",
        "PIDs": str(now.pids if now is not None else 0),
    }


def block_bytes(now: Snapshot | None) -> tuple[int, int]:
    """Return bytes read from and written to disks so far."""
    rows = now.totals.block.values() if now is not None else ()
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def network_bytes(now: Snapshot | None) -> tuple[int, int]:
    """Return bytes received and sent so far."""
    rows = now.totals.network.values() if now is not None else ()
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


async def run_stats(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show a live table of resource usage, or one reading with --no-stream."""
    named = [daemon.supervisor.find(reference) for reference in parsed.args]
    stream = not parsed.boolean("no-stream")
    session.open_ended = True
    earlier: dict[str, Snapshot] = {}
    host_memory = memory_bytes()
    interval = FIRST_INTERVAL_SECONDS
    while True:
        shown = named or [
            item
            for item in sorted(daemon.supervisor, key=lambda item: -item.config.created_ns)
            if item.is_running or parsed.boolean("all")
        ]
        snapshots = {item.id: await read_now(daemon, item) for item in shown}
        if earlier or not shown:
            rows = [
                stats_row(
                    item,
                    snapshots[item.id],
                    earlier.get(item.id),
                    host_memory,
                    truncate=not parsed.boolean("no-trunc"),
                )
                for item in shown
            ]
            text = render_rows(
                rows, format=parsed.string("format"), titles=STATS_TITLES, table=STATS_COLUMNS
            )
            clear = CLEAR_SCREEN if stream and session.stdout_tty else ""
            await session.out(clear + text)
            if not stream:
                return 0
            interval = daemon.settings.poll_interval
        earlier = {key: value for key, value in snapshots.items() if value is not None}
        await trio.sleep(interval)


async def read_now(daemon: Daemon, container: Container) -> Snapshot | None:
    """Take a reading of a running container; of another one what is known."""
    if container.is_running:
        await daemon.meter.cut(container.id, "stats")
    return daemon.meter.snapshot(container.id)


async def run_top(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show the processes of a container as the host's ps sees them."""
    container = daemon.supervisor.find(parsed.args[0])
    if not container.is_running or container.cgroup is None:
        raise Conflict(f"container {container.short_id} is not running")
    pids = await trio.to_thread.run_sync(daemon.parts.driver.pids, container.cgroup)
    options = parsed.args[1:] or ["-ef"]
    try:
        done = await trio.run_process(
            ["ps", *options], capture_stdout=True, capture_stderr=True, check=False
        )
    except FileNotFoundError:
        raise Unavailable("ps was not found on this host; install the package procps") from None
    if done.returncode:
        raise InvalidParameter(f"ps: {done.stderr.decode(errors='replace').strip()}")
    heading, *lines = done.stdout.decode(errors="replace").splitlines()
    titles = heading.split()
    if "PID" not in titles:
        raise InvalidParameter("couldn't find PID field in ps output")
    place = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    kept = [line for line in lines if line.split(None, place + 1)[place] in wanted]
    await session.out("".join(f"{line}\n" for line in [heading, *kept]))
    return 0


def event_fields(event: Event) -> dict[str, Any]:
    """Return an event as docker's API and --format show it."""
    return {
        "status": event.action,
        "id": event.actor_id,
        "Type": event.kind,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }


def event_line(event: Event, chosen: str) -> str:
    """Return one line of ``aruntime events``."""
    if chosen == "json":
        return json.dumps(event_fields(event), separators=(",", ":"), ensure_ascii=False)
    if chosen:
        return render(line_template(chosen), event_fields(event))
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    time_text = rfc3339_nano(event.time_ns)
    return f"{time_text} {event.kind} {event.action} {event.actor_id} ({attributes})"


def event_fits(event: Event, filters: dict[str, list[str]]) -> bool:
    """Whether an event passes: one value of every filter must hold."""

    def holds(key: str, value: str) -> bool:
        attributes = event.attributes
        match key:
            case "type":
                return event.kind == value
            case "event":
                return event.action.partition(":")[0] == value or event.action == value
            case "image":
                return attributes.get("image", "").partition(":")[0] == value.partition(":")[0]
            case "label":
                name, equals, wanted = value.partition("=")
                return name in attributes and (not equals or attributes[name] == wanted)
            case _:
                return event.actor_id.startswith(value) or attributes.get("name") == value

    return all(any(holds(key, value) for value in values) for key, values in filters.items())


async def run_events(session: Session, parsed: Parsed, daemon: Daemon) -> int:
    """Show events, those since a moment first, then as they happen."""
    session.open_ended = True
    filters = parsed.filters()
    for key in filters:
        if key not in EVENT_FILTERS:
            raise InvalidParameter(
                f"invalid filter '{key}'; known are {', '.join(sorted(EVENT_FILTERS))}"
            )
    chosen = parsed.string("format")
    now = time.time_ns()
    since = moment(parsed, "since", now, now)
    until = moment(parsed, "until", now, 0)
    with daemon.events.listen() as happening:
        for event in daemon.events.since(since):
            if event_fits(event, filters) and (not until or event.time_ns <= until):
                await session.out(f"{event_line(event, chosen)}\n")
        wait = max(0.0, (until - now) / 1e9) if until else float("inf")
        with trio.move_on_after(wait):
            async for event in happening:
                if event_fits(event, filters):
                    await session.out(f"{event_line(event, chosen)}\n")
    return 0


COMMANDS = [
    Command(
        "stats", "Display a live stream of container(s) resource usage statistics", run_stats,
        "[CONTAINER...]",
        (
            Flag("all", "a", "bool", help="Show all containers (default shows just running)"),
            Flag("format", "", "string", None, "string", "'table', 'json' or a Go template"),
            Flag("no-stream", "", "bool", help="Disable streaming, only pull the first result"),
            Flag("no-trunc", "", "bool", help="Do not truncate output"),
        ),
        completes="running",
    ),
    Command(
        "top", "Display the running processes of a container", run_top,
        "CONTAINER [ps OPTIONS]", minimum=1, interspersed=False, completes="running",
    ),
    Command(
        "events", "Get real time events from the server", run_events, "",
        (
            Flag("filter", "f", "filter", None, "filter", "Filter output based on conditions"),
            Flag("format", "", "string", None, "string", "'json' or a Go template"),
            Flag("since", "", "string", None, "string", "Show all events since timestamp"),
            Flag("until", "", "string", None, "string", "Stream events until this timestamp"),
        ),
        maximum=0,
    ),
]  # fmt: skip
