"""Daemons come and go: output, statuses and descriptors survive all of them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from aruntime.container import logfile
from tests.kernel.shim.commander import Shim

pytestmark = pytest.mark.kernel


COUNT = "i=0; while [ $i -lt {0} ]; do echo line $i; i=$((i+1)); done"


def read_log(directory: Path) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Return the log's bytes and the index's chunks."""
    content = (directory / "log").read_bytes()
    return content, logfile.parse_index((directory / "log.index").read_bytes(), len(content))


def pump_some(shim: Shim, container_id: str, chunks: int) -> None:
    """Be the daemon's pump for a few chunks."""
    held = shim.daemon.fds[(container_id, "")]
    for _ in range(chunks):
        logfile.move_chunk(held["stdout_read"], held["log"], held["index"], logfile.STDOUT)


def wait_zombie(shim: Shim, pid: int) -> None:
    """Wait until a process has ended and nobody has reaped it."""
    shim.wait_for(lambda: b") Z" in Path(f"/proc/{pid}/stat").read_bytes())


def test_children_are_handed_over_whole(shim: Shim, tmp_path: Path) -> None:
    """The next daemon gets every child with its state and all its descriptors."""
    shim.launch("run", ["sleep", "1000"], log_dir=tmp_path / "a", stdin=True)
    shim.launch("made", ["sleep", "1000"], log_dir=tmp_path / "b", start=False)
    shim.launch("term", ["sleep", "1000"], log_dir=tmp_path / "c", tty=True)
    shim.launch("dead", ["false"], log_dir=tmp_path / "d")
    shim.wait_exit("dead")
    shim.execute("run", "e1", ["sleep", "1000"])
    held = {(m["id"], m.get("exec_id", "")): m for m in shim.reconnect()}
    states = {key: (m["state"], m["tty"]) for key, m in held.items()}
    assert states == {
        ("run", ""): ("running", False),
        ("made", ""): ("created", False),
        ("term", ""): ("running", True),
        ("dead", ""): ("running", False),
        ("run", "e1"): ("running", False),
    }
    common = {"pidfd", "log", "index", "netns"}
    pipes = {"stdout_read", "stderr_read"}
    names = {key: set(fds) for key, fds in shim.daemon.fds.items()}
    assert names[("run", "")] == common | pipes | {"stdin_write"}
    assert names[("made", "")] == common | pipes
    assert names[("term", "")] == common | {"master", "pty_read", "pty_write"}
    assert names[("run", "e1")] == pipes | {"pidfd"}
    assert shim.reap("dead")["code"] == 1
    shim.start("made")
    for name in ("run", "made", "term"):
        shim.kill(name)
    assert shim.reap("run", "e1")["code"] == 137
    for name in ("run", "made", "term"):
        assert shim.reap(name)["code"] == 137


def test_output_without_a_daemon_goes_to_the_log(shim: Shim, tmp_path: Path) -> None:
    """Both streams, told apart by the index, whole."""
    script = "echo out; echo err >&2; echo out again"
    shim.launch("c1", ["sh", "-c", f"sleep 0.05; {script}"], log_dir=tmp_path / "l")
    shim.daemon.close()
    log = tmp_path / "l" / "log"
    shim.wait_for(lambda: log.read_bytes().count(b"\n") == 3)
    shim.reconnect()
    shim.reap("c1")
    content, chunks = read_log(tmp_path / "l")
    streams: dict[int, bytes] = {}
    for _, stream, offset, length in chunks:
        streams[stream] = streams.get(stream, b"") + content[offset : offset + length]
    assert streams == {logfile.STDOUT: b"out\nout again\n", logfile.STDERR: b"err\n"}
    assert abs(chunks[0][0] - time.time_ns()) < 60e9


def test_no_line_is_lost_or_doubled_over_many_daemons(shim: Shim, tmp_path: Path) -> None:
    """A container writes as fast as it can while daemons come, pump a little, and vanish."""
    lines = 20_000
    shim.launch("c1", ["sh", "-c", COUNT.format(lines)], log_dir=tmp_path / "l")
    for round_number in range(12):
        pump_some(shim, "c1", round_number % 4)
        if round_number % 2:
            shim.daemon.send({"op": "goodbye"})
        shim.daemon.close()
        shim.daemon = shim.connect()
        shim.daemon.hello()
    shim.daemon.close()
    last = f"line {lines - 1}\n".encode()
    shim.wait_for(lambda: (tmp_path / "l" / "log").read_bytes().endswith(last))
    shim.reconnect()
    assert shim.reap("c1")["code"] == 0
    content, chunks = read_log(tmp_path / "l")
    assert content.decode().splitlines() == [f"line {number}" for number in range(lines)]
    assert sum(length for *_, length in chunks) == len(content)


def test_terminal_output_without_a_daemon(shim: Shim, tmp_path: Path) -> None:
    """A pty goes through its private pipe; what the daemon left there comes first."""
    script = "echo first; until [ -e /gate ]; do sleep 0.01; done; echo second"
    shim.launch("c1", ["sh", "-c", script], tty=True, log_dir=tmp_path / "l")
    held = shim.daemon.fds[("c1", "")]
    flags = os.SPLICE_F_NONBLOCK
    taken = 0

    def moved() -> bool:
        nonlocal taken
        with contextlib.suppress(BlockingIOError):
            taken += os.splice(held["master"], held["pty_write"], 4096, flags=flags)
        return taken == len("first\r\n")

    shim.wait_for(moved)
    shim.daemon.close()  # it dies with bytes in the private pipe
    (shim.rootfs / "gate").touch()
    log = tmp_path / "l" / "log"
    shim.wait_for(lambda: log.read_bytes().count(b"\n") == 2)
    shim.reconnect()
    shim.reap("c1")
    assert read_log(tmp_path / "l")[0] == b"first\r\nsecond\r\n"


def test_exit_while_no_daemon_lives(shim: Shim, tmp_path: Path) -> None:
    """The status waits as a zombie."""
    shim.launch("c1", ["sh", "-c", "sleep 0.05; exit 42"], log_dir=tmp_path / "l")
    pid = shim.children()[0]
    shim.daemon.close()
    wait_zombie(shim, pid)
    held = shim.reconnect()
    assert [(m["id"], m["pid"]) for m in held] == [("c1", pid)]
    assert shim.reap("c1")["code"] == 42


def test_exec_without_its_client_runs_on(shim: Shim, tmp_path: Path) -> None:
    """An exec that writes more than a pipe holds does not stop when the daemon dies."""
    shim.launch("c1", ["sleep", "1000"], log_dir=tmp_path / "l")
    shim.execute("c1", "e1", ["sh", "-c", "head -c 1000000 /dev/zero; exit 4"])
    shim.execute("c1", "e2", ["sh", "-c", "head -c 1000000 /dev/zero; exit 5"], tty=True)
    pids = [pid for pid in shim.children() if pid != shim.children()[0]]
    shim.daemon.close()
    for pid in pids:
        wait_zombie(shim, pid)
    shim.reconnect()
    assert [shim.reap("c1", name)["code"] for name in ("e1", "e2")] == [4, 5]
    shim.kill("c1")
    shim.reap("c1")
    assert (tmp_path / "l" / "log").read_bytes() == b""


def test_stdin_stays_open_over_a_daemons_death(shim: Shim, tmp_path: Path) -> None:
    """The shim's copy of the write end keeps the container from seeing an end of file."""
    shim.launch("c1", ["cat"], stdin=True, log_dir=tmp_path / "l")
    shim.reconnect()
    os.write(shim.fd("stdin_write", "c1"), b"still here\n")
    assert os.read(shim.fd("stdout_read", "c1"), 100) == b"still here\n"
    shim.kill("c1")
    shim.reap("c1")


def test_stdin_of_an_exec_ends_with_its_daemon(shim: Shim) -> None:
    """Its client is gone and cannot come back: the program sees the end of its input."""
    shim.launch("c1", ["sleep", "1000"])
    shim.execute("c1", "e1", ["sh", "-c", "cat; exit 6"], stdin=True)
    shim.reconnect()
    assert shim.reap("c1", "e1")["code"] == 6
    shim.kill("c1")
    shim.reap("c1")


def test_launch_cut_off_by_the_daemons_death(shim: Shim, tmp_path: Path) -> None:
    """What was set up is handed over as created; nothing of it has run."""
    shim.send_launch("c1", ["echo", "ran"], log_dir=tmp_path / "l")
    shim.daemon.expect("created", "c1")
    held = shim.reconnect()
    assert [(m["id"], m["state"]) for m in held] == [("c1", "created")]
    shim.kill("c1")
    assert shim.reap("c1")["code"] == 137
    assert (tmp_path / "l" / "log").read_bytes() == b""


def test_launch_still_in_the_making_is_ended_at_hello(shim: Shim, tmp_path: Path) -> None:
    """Nobody waits for it any more: it is killed, reaped and not handed over."""
    fifo = tmp_path / "cgroup.procs"
    os.mkfifo(fifo)  # init blocks as it "joins" this cgroup, until somebody reads
    shim.send_launch("c1", ["true"], cgroup_dirs=[str(tmp_path)])
    shim.wait_for(lambda: len(shim.children()) == 1)
    assert shim.reconnect() == []
    shim.wait_for(lambda: not shim.children())
    shim.daemon.send({"op": "reap", "id": "c1"})
    answer = shim.daemon.expect("failed", "c1")
    if answer["step"] != "read the request":  # the failure of the launch itself came first
        answer = shim.daemon.expect("failed", "c1")
    assert answer["strerror"] == "the shim holds no such child"


def test_logs_are_replaced(shim: Shim, tmp_path: Path) -> None:
    """After a rotation the shim writes where the daemon says."""
    shim.launch("c1", ["sh", "-c", "sleep 0.1; echo x"], log_dir=tmp_path / "old")
    (tmp_path / "new").mkdir()
    fds = logfile.open_log(str(tmp_path / "new"))
    shim.daemon.send({"op": "logs", "id": "c1"}, {"log": fds[0], "index": fds[1]})
    for fd in fds:
        os.close(fd)
    shim.daemon.close()
    shim.wait_for(lambda: (tmp_path / "new" / "log").read_bytes() == b"x\n")
    assert (tmp_path / "old" / "log").read_bytes() == b""
    shim.reconnect()
    shim.reap("c1")


def test_full_disk_blocks_the_container_and_loses_nothing(shim: Shim, tmp_path: Path) -> None:
    """While the log cannot grow the writer waits; afterwards every byte is there."""
    lines = 3000
    limit = 4096
    shim.launch("c1", ["sh", "-c", COUNT.format(lines)], log_dir=tmp_path / "l", start=False)
    prlimit_fsize(shim.process.pid, limit)
    shim.start("c1")
    shim.daemon.close()
    log = tmp_path / "l" / "log"
    shim.wait_for(lambda: log.stat().st_size == limit)
    prlimit_fsize(shim.process.pid, -1)
    last = f"line {lines - 1}\n".encode()
    shim.wait_for(lambda: log.read_bytes().endswith(last))
    assert log.read_bytes().decode().splitlines() == [f"line {n}" for n in range(lines)]
    shim.reconnect()
    assert shim.reap("c1")["code"] == 0


def prlimit_fsize(pid: int, limit: int) -> None:
    """Limit how large a file may grow: EFBIG, as a full disk would answer ENOSPC."""

    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))


def test_second_daemon_is_refused(shim: Shim) -> None:
    """With a message that says who is there; the first one is not disturbed."""
    second = shim.connect()
    second.send({"op": "hello", "version": "x"})
    refused = second.receive()
    assert refused["op"] == "refused"
    assert str(os.getpid()) in refused["message"]
    assert second.receive() == {}
    assert shim.run("c1", ["echo", "fine"])[1] == "fine\n"


def test_nobody_commands_without_hello(shim: Shim) -> None:
    """A connection that has not introduced itself gets nothing done."""
    other = shim.connect()
    other.send({"op": "launch", "id": "c1"})
    assert other.receive() == {"op": "refused", "message": "say hello first"}


@pytest.mark.parametrize(
    "raw", [b"x", b"[]", b"{", b'{"op": "launch"}', b'{"op": "dance"}', b"\xff"]
)
def test_what_is_no_request_is_answered(shim: Shim, raw: bytes) -> None:
    """Malformed messages are refused and the shim goes on."""
    shim.daemon.socket.send(raw)
    assert shim.daemon.receive()["op"] in ("refused", "failed")
    assert shim.run("c1", ["true"])[0] == 0


def test_requests_for_unknown_children(shim: Shim) -> None:
    """They fail by name and change nothing."""
    shim.daemon.send({"op": "reap", "id": "nobody"})
    assert shim.daemon.expect("failed", "nobody")["step"] == "read the request"
    shim.launch("c1", ["sleep", "1000"])
    shim.daemon.send({"op": "start", "id": "c1"})
    assert shim.daemon.expect("failed", "c1")["strerror"] == "the child is running"
    shim.daemon.send({"op": "reap", "id": "c1"})
    assert shim.daemon.expect("failed", "c1")["strerror"] == "the child is running"
    shim.kill("c1")
    shim.wait_exit("c1")
    shim.send_launch("c1", ["true"])
    assert "already" in shim.daemon.expect("failed", "c1")["strerror"]
    shim.daemon.send({"op": "reap", "id": "c1"})
    assert shim.daemon.expect("reaped", "c1")["code"] == 137


def test_pipelined_launches(shim: Shim) -> None:
    """Twenty launches sent at once all come up; none waits for another."""
    names = [f"c{number}" for number in range(20)]
    for name in names:
        shim.send_launch(name, ["sh", "-c", f"echo {name}"], start=True)
    for name in names:
        shim.daemon.expect("created", name)
        shim.daemon.expect("running", name)
    assert [shim.output(name) for name in names] == [f"{name}\n" for name in names]
    assert {shim.reap(name)["code"] for name in names} == {0}


def test_sigterm_is_ignored_while_children_live(shim: Shim) -> None:
    """Their statuses would be lost; without children it ends the shim and its socket goes."""
    shim.launch("c1", ["sleep", "1000"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        shim.process.send_signal(number)
    shim.wait_for(lambda: b"ignored" in Path(shim.run_dir / "shim.log").read_bytes())
    shim.daemon.send({"op": "shutdown"})
    assert shim.daemon.receive() == {"op": "refused", "message": "the shim holds 1 children"}
    shim.kill("c1")
    shim.reap("c1")
    shim.process.send_signal(signal.SIGTERM)
    assert shim.process.wait(timeout=20) == 0
    assert not os.path.exists(shim.path)


def test_shutdown(shim: Shim) -> None:
    """An empty shim ends when told to."""
    shim.daemon.send({"op": "shutdown"})
    assert shim.process.wait(timeout=20) == 0
    assert shim.daemon.receive() == {}


def test_containers_outlive_the_shim(shim: Shim, tmp_path: Path) -> None:
    """A killed shim takes no container along."""
    created = shim.launch("c1", ["sleep", "1000"], log_dir=tmp_path / "l")
    waiting = shim.launch("c2", ["sleep", "1000"], log_dir=tmp_path / "m", start=False)
    shim.process.kill()
    shim.process.wait()
    assert os.path.exists(f"/proc/{created['pid']}")
    shim.wait_exit("c2")  # it can never be started: it gives up by itself
    assert waiting["pid"] != created["pid"]
    shim.kill("c1")
    shim.wait_exit("c1")
