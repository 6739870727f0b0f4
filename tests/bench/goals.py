"""The goals of the project as ratios against peers, and whether a run meets them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench import engine
from tests.bench.figures import OURS, Results, advantages


@dataclass(frozen=True)
class Goal:
    """Something a run must show; `peer` empty: `limit` bounds our own figure from above."""

    text: str
    measure: str
    peer: str
    limit: float
    unit: str = "kB"
    """Of our own figure."""


GOALS = (
    Goal("run --rm, bridge: 8 times faster than docker", engine.LATENCY_ALONE, "docker", 8),
    Goal("run --rm, bridge: 8 times faster than podman", engine.LATENCY_ALONE, "podman", 8),
    Goal("beside another container: 8 times docker", engine.LATENCY_BRIDGE, "docker", 8),
    Goal("beside another container: 8 times podman", engine.LATENCY_BRIDGE, "podman", 8),
    Goal("exec: 3 times faster than docker", engine.EXEC, "docker", 3),
    Goal("exec: 3 times faster than podman", engine.EXEC, "podman", 3),
    Goal("pause: not slower than docker", engine.PAUSE, "docker", 1),
    Goal("ps: less time than docker", engine.PS, "docker", 1),
    Goal("at most 20 kB per idle container", engine.MEMORY, "", 20),
    Goal("a network costs a run at most 5 ms", engine.NETWORK_COST, "", 5, "ms"),
    Goal("container to host: not slower than docker", engine.NETWORK, "docker", 1),
    Goal("container to host: no more CPU than docker", engine.NETWORK_CPU, "docker", 1),
    Goal("logs: 8 times docker's MB/s", engine.LOGS, "docker", 8),
    Goal("pull: no longer than docker", engine.PULL, "docker", 1),
    Goal("pull: no longer than podman", engine.PULL, "podman", 1),
    Goal("pull: no more CPU time than docker", engine.PULL_CPU, "docker", 1),
    Goal("pull: no more CPU time than podman", engine.PULL_CPU, "podman", 1),
)


@dataclass(frozen=True)
class Verdict:
    """A goal and how it stands; `figure` is a ratio or, without a peer, our own figure."""

    goal: Goal
    figure: float | None
    is_met: bool | None
    """None: not measured."""


def judge(results: Results) -> list[Verdict]:
    """Compare a run with the goals."""
    return [_verdict(goal, results) for goal in GOALS]


def _verdict(goal: Goal, results: Results) -> Verdict:
    ours = results.get(goal.measure, OURS)
    if ours is None:
        return Verdict(goal, None, None)
    if not goal.peer:
        return Verdict(goal, ours.median, ours.median <= goal.limit)
    theirs = results.get(goal.measure, goal.peer)
    if theirs is None:
        return Verdict(goal, None, None)
    ratio, _ = advantages(ours, theirs)
    return Verdict(goal, ratio, ratio >= goal.limit)
