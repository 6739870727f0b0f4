"""Inits that are forked before their payload is made: they wait for it, and end without it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from aruntime.container import launch, messages
from tests.kernel.shim.commander import Shim, memfd
from tests.kernel.shim.specs import payload_of, spec_of

pytestmark = pytest.mark.kernel

PLAIN = ("pid", "mount", "uts", "ipc", "network", "cgroup")


class Early:
    """A launch whose payload is still to come; owns the payload's file and the gate."""

    def __init__(self, shim: Shim, args: list[str], **options: Any) -> None:
        born = launch.born_into(spec_of(args, namespaces=PLAIN))
        assert born is not None
        cgroups = options.pop("cgroup_dirs", [])
        self.content = payload_of("c1", shim.rootfs, args, cgroup_dirs=cgroups, **options)
        self.payload = memfd(b"")
        reading, self.gate = os.pipe2(os.O_CLOEXEC)
        early = {"clone": born, "cgroups": cgroups}
        fields = {"op": "launch", "id": "c1", "announce": True, "early": early}
        shim.request(fields, b"", fds={"payload": self.payload, "gate": reading})
        os.close(reading)

    def send_payload(self) -> None:
        """Let init go on with its payload."""
        os.write(self.payload, self.content)
        os.write(self.gate, b"!")

    def close(self) -> None:
        """Close both."""
        for fd in (self.payload, self.gate):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Return what looks like a cgroup's file: who joins waits until somebody reads."""
    path = tmp_path / "cgroup.procs"
    os.mkfifo(path)
    return path


def test_the_payload_comes_later(shim: Shim, fifo: Path) -> None:
    """The cgroups are joined before it is there, and once; all else comes from it."""
    early = Early(shim, ["hostname"], cgroup_dirs=[str(fifo.parent)])
    spawned = shim.daemon.expect("spawned", "c1")
    assert fifo.read_bytes() == b"0"
    early.send_payload()
    assert shim.daemon.expect("created", "c1")["pid"] == spawned["pid"]
    shim.start("c1")
    assert shim.output("c1") == "box\n"
    assert shim.reap("c1")["code"] == 0
    early.close()


def test_start_before_the_payload_is_there(shim: Shim) -> None:
    """Init goes on as soon as it is set up."""
    early = Early(shim, ["echo", "ran"])
    shim.daemon.expect("spawned", "c1")
    shim.daemon.send({"op": "start", "id": "c1"})
    early.send_payload()
    shim.daemon.expect("created", "c1")
    shim.daemon.expect("running", "c1")
    assert shim.output("c1") == "ran\n"
    shim.reap("c1")
    early.close()


def test_what_it_gets_is_what_others_get(shim: Shim) -> None:
    """Limits, OOM score, descriptors: the shim's own are nobody's."""
    script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; ls /proc/self/fd"
    _, usual, _ = shim.run("c1", ["sh", "-c", script])
    early = Early(shim, ["sh", "-c", script])
    early.send_payload()
    shim.daemon.expect("spawned", "c1")
    shim.daemon.expect("created", "c1")
    shim.start("c1")
    assert shim.output("c1") == usual
    shim.reap("c1")
    early.close()


def test_no_payload_comes(shim: Shim) -> None:
    """A gate that is closed ends the launch: told once, and nothing is left."""
    before = shim.descriptors()
    early = Early(shim, ["echo", "ran"])
    shim.daemon.expect("spawned", "c1")
    os.close(early.gate)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == messages.STEP_INIT
    assert shim.children() == []
    shim.daemon.forget("c1")
    shim.wait_descriptors(before)
    assert shim.run("c1", ["true"])[0] == 0
    early.close()


def test_the_daemon_dies_before_it_has_made_the_payload(shim: Shim) -> None:
    """Its end of the gate goes with it, and so does init; the next daemon hears of none."""
    early = Early(shim, ["echo", "ran"])
    shim.daemon.expect("spawned", "c1")
    shim.daemon.close()
    os.close(early.gate)
    shim.wait_for(lambda: shim.children() == [])
    assert shim.reconnect() == []
    assert shim.run("c1", ["true"])[0] == 0
    early.close()


def test_the_next_daemon_comes_before_the_gate_is_closed(shim: Shim) -> None:
    """Whoever was to make the payload is gone: init is killed and not handed over."""
    early = Early(shim, ["echo", "ran"])
    shim.daemon.expect("spawned", "c1")
    assert shim.reconnect() == []
    shim.wait_for(lambda: shim.children() == [])
    early.close()


def test_a_malformed_payload(shim: Shim) -> None:
    """It is the child that finds out."""
    early = Early(shim, ["echo", "ran"])
    early.content = b"{}"
    shim.daemon.expect("spawned", "c1")
    early.send_payload()
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], "payload" in failed["strerror"]) == (messages.STEP_PAYLOAD, True)
    assert shim.children() == []
    early.close()


@pytest.mark.parametrize("early", [None, 1, {}, {"clone": "much", "cgroups": []}])
def test_a_malformed_request(shim: Shim, early: object) -> None:
    """Nothing is forked."""
    before = shim.descriptors()
    payload, (reading, gate) = memfd(b""), os.pipe2(os.O_CLOEXEC)
    fields = {"op": "launch", "id": "c1", **({} if early is None else {"early": early})}
    shim.request(fields, b"", fds={"payload": payload, "gate": reading})
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == messages.STEP_PAYLOAD
    assert shim.children() == []
    for fd in (payload, reading, gate):
        os.close(fd)
    shim.daemon.forget("c1")
    shim.wait_descriptors(before)


def test_a_cgroup_that_cannot_be_joined(shim: Shim, tmp_path: Path) -> None:
    """It fails before the payload is waited for, and names the file."""
    early = Early(shim, ["true"], cgroup_dirs=[str(tmp_path / "nothing")])
    shim.daemon.expect("spawned", "c1")
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == (messages.STEP_CGROUP, errno.ENOENT)
    assert failed["path"] == str(tmp_path / "nothing" / "cgroup.procs")
    early.close()
