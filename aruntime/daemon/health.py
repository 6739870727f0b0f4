"""Health checks: a probe executed in the container at an interval (--health-cmd, HEALTHCHECK).

The rules are docker's: starting until the first success or until ``retries`` failures in a row,
failures within the start period do not count, a probe that outlives its timeout is killed and
counts as a failure, the last five results are kept. While the container is paused no probe runs.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import structlog
import trio

from aruntime.container.config import Health
from aruntime.container.state import Status
from aruntime.daemon import execs, launching
from aruntime.daemon.parts import Parts
from aruntime.daemon.record import Container
from aruntime.errors import AruntimeError
from aruntime.images.image import Healthcheck

journal = structlog.get_logger()

DEFAULT_INTERVAL_NS = 30_000_000_000
DEFAULT_TIMEOUT_NS = 30_000_000_000
DEFAULT_START_INTERVAL_NS = 5_000_000_000
DEFAULT_RETRIES = 3
KEPT_RESULTS = 5
KEPT_OUTPUT_BYTES = 4096

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"


class ProbeResult(msgspec.Struct, frozen=True):
    """One probe: Unix times in ns, exit code (-1 timed out or not executable), its output."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class HealthState(msgspec.Struct):
    """What the probes of the present run said."""

    status: str = STARTING
    failing_streak: int = 0
    results: list[ProbeResult] = []


def check_object(health: Health | Healthcheck) -> dict[str, Any]:
    """Return a health check as docker's JSON has it (``Healthcheck`` of a configuration)."""
    return {
        "Test": list(health.test),
        "Interval": health.interval_ns,
        "Timeout": health.timeout_ns,
        "StartPeriod": health.start_period_ns,
        "StartInterval": health.start_interval_ns,
        "Retries": health.retries,
    }


def probe_args(health: Health, shell: list[str]) -> list[str]:
    """Return the command of a health check; empty when it is switched off."""
    match health.test:
        case ("CMD", *args):
            return list(args)
        case ("CMD-SHELL", text):
            return [*shell, text]
        case _:
            return []


async def check(parts: Parts, container: Container) -> None:
    """Probe a running container until cancelled."""
    health = container.config.health
    assert health is not None
    args = probe_args(health, ["/bin/sh", "-c"])
    if not args:
        return
    state = container.health = HealthState(results=[])
    interval = (health.interval_ns or DEFAULT_INTERVAL_NS) / 1e9
    start_interval = (health.start_interval_ns or DEFAULT_START_INTERVAL_NS) / 1e9
    grace_ends = trio.current_time() + health.start_period_ns / 1e9
    while True:
        starting = state.status == STARTING and trio.current_time() < grace_ends
        await trio.sleep(min(start_interval, interval) if starting else interval)
        if container.state.status is not Status.RUNNING:
            continue
        result = await probe(
            parts, container, args, (health.timeout_ns or DEFAULT_TIMEOUT_NS) / 1e9
        )
        if result is not None:
            in_grace = trio.current_time() < grace_ends
            judge(parts, container, state, result, health.retries or DEFAULT_RETRIES, in_grace)


async def probe(
    parts: Parts, container: Container, args: list[str], timeout: float
) -> ProbeResult | None:
    """Execute one probe; None when the container was paused or ended meanwhile."""
    began = time.time_ns()
    request = launching.ExecRequest(args=args)
    try:
        started, streams = await execs.start_exec(parts, container, request)
    except AruntimeError as error:
        if container.state.status is not Status.RUNNING:
            return None
        return ProbeResult(began, time.time_ns(), -1, error.message)
    output = bytearray()
    with trio.move_on_after(timeout) as scope:
        async with execs.exec_output(parts, started, streams) as chunks:
            async for chunk in chunks:
                output += chunk.content[: KEPT_OUTPUT_BYTES - len(output)]
        await started.exited.wait()
    code = -1 if started.exit_code is None else started.exit_code
    if scope.cancelled_caught:
        execs.kill(started)
        output = bytearray(f"Health check exceeded timeout ({timeout:g}s)".encode())
        code = -1
    return ProbeResult(began, time.time_ns(), code, output.decode(errors="replace"))


def judge(
    parts: Parts,
    container: Container,
    state: HealthState,
    result: ProbeResult,
    retries: int,
    in_grace: bool,
) -> None:
    """Let one result change the state; tell listeners when the status changes."""
    state.results = [*state.results, result][-KEPT_RESULTS:]
    before = state.status
    if result.exit_code == 0:
        state.failing_streak = 0
        state.status = HEALTHY
    elif not (in_grace and state.status == STARTING):
        state.failing_streak += 1
        if state.failing_streak >= retries:
            state.status = UNHEALTHY
    if state.status != before:
        action = f"health_status: {state.status}"
        parts.events.publish("container", action, container.id, container.event_attributes())
