"""aruntime monitor on a real terminal, of real containers."""

from __future__ import annotations

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.terminal import Terminal

pytestmark = pytest.mark.e2e


def test_watching_and_pausing(shared_daemon: RunningDaemon) -> None:
    """The screen shows what runs, p pauses and resumes the selected one, q leaves the screen."""
    shared_daemon.run(
        "run", "-d", "--name", "burner", "--tenant", "acme", "-m", "64m", "busybox",
        "sh", "-c", "while :; do :; done",
    )  # fmt: skip
    shared_daemon.run("run", "-d", "--name", "sleeper", "busybox", "sleep", "99")
    with Terminal(shared_daemon, "monitor", "-i", "0.2", rows=30, columns=160) as screen:
        screen.expect(r"2 running, 0 paused")
        screen.expect(r"burner +acme +running +0\.[1-9]")
        screen.type("/burn\r")
        screen.expect(r"1 containers, by cpu, with 'burn'")
        screen.type("p")
        screen.expect(r"burner +acme +paused")
        assert shared_daemon.out("inspect", "-f", "{{.State.Paused}}", "burner") == "true"
        screen.expect(r"burner +acme +paused +0\.00")
        screen.type(" ")
        screen.expect(r"burner +acme +running")
        wait_until(
            lambda: shared_daemon.out("inspect", "-f", "{{.State.Paused}}", "burner") == "false"
        )
        screen.resize(12, 60)
        screen.expect(r"NAME +STATE +CPU +MEMORY\r?\n")
        screen.type("q")
        assert screen.wait() == 0


def test_not_a_terminal(shared_daemon: RunningDaemon) -> None:
    """Without a terminal one line says what to use instead."""
    done = shared_daemon.run("monitor", code=125)
    assert done.stderr.startswith("aruntime: monitor needs a terminal; 'aruntime stats")
