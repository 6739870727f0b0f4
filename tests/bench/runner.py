"""Starts commands and measures them from before their start to after their end.

A process of its own, so that every engine's commands are started from the same small parent, in
the mount namespace that engine needs, with nothing of the benchmark's own in the time measured.
One JSON request a line on stdin, one JSON reply a line on stdout; it ends with its stdin. Run by
path with ``python -I -S``: standard library only. What is measured is :mod:`tests.bench.measures`'.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STDERR_KEPT = 2000
"""Bytes of what a failed command said that go into the reply."""


def start(argv: list[str], env: dict[str, str], out: int, err: int) -> int:
    """Start a program (by path) without a terminal; returns its pid."""
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, err, 2),
        ],
        setsigdef=[signal.SIGPIPE],  # the interpreter ignores it, a shell's child would not
    )


def run_in_turn(request: dict[str, Any], out: int, err: int) -> list[tuple[int, int]]:
    """Run the commands one after another; (nanoseconds, exit code) of each."""
    results = []
    for argv in request["argvs"]:
        begun = time.perf_counter_ns()
        _, status = os.waitpid(start(argv, request["env"], out, err), 0)
        results.append((time.perf_counter_ns() - begun, os.waitstatus_to_exitcode(status)))
    return results


def run_in_parallel(request: dict[str, Any], out: int, err: int) -> list[tuple[int, int]]:
    """Run the commands, always so many at once; (nanoseconds, exit code) in order of ending."""
    waiting = request["argvs"][::-1]
    running: dict[int, tuple[int, int]] = {}
    ended = select.poll()
    results = []
    while waiting or running:
        while waiting and len(running) < request["parallel"]:
            begun = time.perf_counter_ns()
            pid = start(waiting.pop(), request["env"], out, err)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, begun
            ended.register(pidfd, select.POLLIN)
        for pidfd, _ in ended.poll():
            pid, begun = running.pop(pidfd)
            _, status = os.waitpid(pid, 0)
            results.append((time.perf_counter_ns() - begun, os.waitstatus_to_exitcode(status)))
            ended.unregister(pidfd)
            os.close(pidfd)
    return results


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Run the commands of a request and say how long they took and what failed."""
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    err = os.memfd_create("stderr")
    try:
        run = run_in_turn if request["parallel"] == 1 else run_in_parallel
        begun = time.perf_counter_ns()
        results = run(request, out, err)
        total = time.perf_counter_ns() - begun
        said = os.pread(err, STDERR_KEPT, max(0, os.fstat(err).st_size - STDERR_KEPT))
    finally:
        os.close(out)
        os.close(err)
    return {
        "total_ns": total,
        "wall_ns": [wall for wall, _ in results],
        "codes": [code for _, code in results],
        "stderr": said.decode(errors="replace"),
    }


def launch(request: dict[str, Any]) -> dict[str, Any]:
    """Start a program that stays, its output in a file; returns its pid."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return {"pid": start(request["argv"], request["env"], log, log)}
    finally:
        os.close(log)


def main() -> None:
    """Serve requests until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        reply = launch(request) if "log" in request else measure(request)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
