"""The process that starts and times the commands of the benchmarks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.place import RUNNER, CommandFailed, Runner


@pytest.fixture
def runner() -> Iterator[Runner]:
    """A runner in our own mount namespace."""
    runner = Runner([sys.executable, "-I", "-S", str(RUNNER)], {"PATH": "/usr/bin:/bin"})
    yield runner
    runner.close()


def test_commands_in_turn_are_timed_one_by_one(runner: Runner) -> None:
    """Each command's time covers its run; together they take at least the sum."""
    total, each = runner.measure([["/bin/sleep", "0.02"], ["/bin/true"]])

    assert each[0] >= 0.02
    assert each[1] < each[0]
    assert total >= sum(each)


def test_parallel_commands_overlap(runner: Runner, tmp_path: Path) -> None:
    """Two at once really run at once: each waits for what the other does."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening one end waits for the other
    words = [["/bin/sh", "-c", f"{verb} {pipe}"] for verb in ("cat <", "echo >")]

    _, each = runner.measure(words, 2)

    assert len(each) == 2


def test_failure_says_what_the_command_said(runner: Runner) -> None:
    """An exit code that is not 0 is an error with the command's stderr; the runner goes on."""
    with pytest.raises(CommandFailed, match="exit code 3: no such thing"):
        runner.measure([["/bin/sh", "-c", "echo no such thing >&2; exit 3"]])

    assert runner.output(["/bin/echo", "still here"]) == b"still here\n"


def test_sigpipe_has_its_default_action(runner: Runner) -> None:
    """Commands are not started with SIGPIPE ignored, as an interpreter's children would be."""
    [mask] = runner.output(["/bin/grep", "-h", "SigIgn", "/proc/self/status"]).split()[1:]

    assert not int(mask, 16) & 1 << (signal.SIGPIPE - 1)
