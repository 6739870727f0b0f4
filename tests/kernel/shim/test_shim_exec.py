"""More processes in a running container, and terminals."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.shim.commander import Shim

pytestmark = pytest.mark.kernel

MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
]


@pytest.fixture
def box(shim: Shim) -> Iterator[Shim]:
    """Return a shim with a container ``c1`` that does nothing."""
    shim.launch("c1", ["sleep", "1000"])
    yield shim
    shim.kill("c1")
    shim.reap("c1")


def run_exec(shim: Shim, args: list[str], **options: Any) -> tuple[int, str, str]:
    """Run a process in c1 to its end."""
    shim.execute("c1", "e1", args, **options)
    out = shim.output("c1", "e1")
    err = "" if options.get("tty") else shim.output("c1", "e1", "stderr")
    code = shim.reap("c1", "e1")["code"]
    shim.daemon.forget("c1", "e1")
    return code, out, err


def test_exec_is_inside(box: Shim) -> None:
    """It sees the container's processes, names and namespaces, under a small pid."""
    names = ("pid", "mnt", "uts", "ipc", "net", "cgroup")
    script = "hostname; cat /proc/1/cmdline | tr '\\0' ' '; echo; echo $$; "
    script += "; ".join(
        f"[ /proc/self/ns/{name} -ef /proc/1/ns/{name} ] || echo {name}" for name in names
    )
    code, out, _ = run_exec(box, ["sh", "-c", script])
    host, command, pid, *different = out.splitlines()
    assert (code, host, command.strip(), different) == (0, "box", "sleep 1000", [])
    assert int(pid) < 20


def test_exit_codes_and_streams(box: Shim) -> None:
    """As for a container."""
    assert run_exec(box, ["sh", "-c", "echo o; echo e >&2; exit 42"]) == (42, "o\n", "e\n")
    assert run_exec(box, ["sh", "-c", "kill -9 $$"])[0] == 137


def test_exec_reads_stdin(box: Shim) -> None:
    """Its stdin is its own."""
    box.execute("c1", "e1", ["cat"], stdin=True)
    os.write(box.fd("stdin_write", "c1", "e1"), b"hello")
    os.close(box.daemon.fds[("c1", "e1")].pop("stdin_write"))
    box.daemon.send({"op": "close_stdin", "id": "c1", "exec_id": "e1"})
    assert box.output("c1", "e1") == "hello"
    assert box.reap("c1", "e1")["code"] == 0


def test_exec_as_another_user(box: Shim) -> None:
    """A user by name, its groups, an environment and a working directory of its own."""
    code, out, _ = run_exec(box, ["sh", "-c", "id; pwd; echo $HOME"], login="alice", cwd="/tmp")
    assert code == 0
    assert out.splitlines() == [
        "uid=1000(alice) gid=1000(alice) groups=29(audio),1000(alice)",
        "/tmp",
        "/home/alice",
    ]


@pytest.mark.parametrize(
    ("options", "step", "number", "text"),
    [
        ({"args": ["nothing"]}, "find the program", errno.ENOENT, "not found in $PATH"),
        ({"args": ["/etc/passwd"]}, "find the program", errno.EACCES, "permission denied"),
        ({"args": ["/etc"]}, "find the program", errno.EISDIR, "is a directory"),
        ({"args": ["/x/y"]}, "find the program", errno.ENOENT, "no such file or directory"),
        ({"args": ["/etc/group/x"]}, "find the program", errno.ENOTDIR, "not a directory"),
        ({"args": ["true"], "cwd": "/none"}, "change to the working", errno.ENOENT, "No such"),
        ({"args": ["true"], "login": "bob"}, "find the user", 0, "unable to find user bob"),
        ({"args": ["true"], "login": "alice:x"}, "find the user", 0, "unable to find group x"),
        ({"args": ["true"], "login": "4294967297"}, "find the user", 0, "outside 0"),
        ({"args": ["true"], "login": "2147483648:0"}, "find the user", 0, "outside 0"),
    ],
)
def test_refusals_leave_nothing(
    box: Shim, options: dict[str, Any], step: str, number: int, text: str
) -> None:
    """Each names its step and reason; the child is reaped and forgotten by then."""
    before = box.descriptors()
    box.request_exec("c1", "e1", **options)
    failed = box.daemon.expect("failed", "c1", "e1")
    assert failed["step"].startswith(step)
    assert failed["errno"] == number
    assert text in failed["strerror"]
    assert box.descriptors() == before
    assert len(box.children()) == 1


def test_exec_into_a_dead_container(shim: Shim) -> None:
    """A zombie has no namespaces to join."""
    shim.launch("c1", ["true"])
    shim.wait_exit("c1")
    shim.request_exec("c1", "e1", ["true"])
    failed = shim.daemon.expect("failed", "c1", "e1")
    assert failed["errno"] == errno.ESRCH
    assert failed["strerror"] == "the container is not running"
    shim.reap("c1")


def test_exec_into_an_unknown_container(shim: Shim) -> None:
    """The shim holds no such container."""
    shim.request_exec("nobody", "e1", ["true"])
    failed = shim.daemon.expect("failed", "nobody", "e1")
    assert (failed["errno"], failed["strerror"]) == (
        errno.ESRCH,
        "the shim holds no such container",
    )


def test_shim_stays_in_its_own_pid_namespace(box: Shim) -> None:
    """Forking into a container's PID namespace does not drag the next launch along."""
    run_exec(box, ["true"])
    shim_ns = os.readlink(f"/proc/{box.process.pid}/ns/pid_for_children")
    assert shim_ns == os.readlink("/proc/self/ns/pid")
    code, out, _ = box.run("c2", ["readlink", "/proc/self/ns/pid"])
    assert code == 0
    assert out.strip() not in (shim_ns, os.readlink(f"/proc/{box.children()[0]}/ns/pid"))


MAKE_SIBLINGS = """
import ctypes, os
syscall = ctypes.PyDLL(None).syscall
for _ in range(3):
    # clone(CLONE_PARENT | SIGCHLD): our parent's child, not ours
    if syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:
        os._exit(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of clone(2)")
def test_siblings_made_by_an_exec_are_reaped(shim: Shim) -> None:
    """A process in a container can make children for the shim; no zombie of them stays."""
    mounts = [
        {"destination": "/host", "type": "bind", "source": "/", "options": ["rbind", "ro"]},
    ]
    shim.launch("c1", ["sleep", "1000"], spec={"mounts": [*MOUNTS, *mounts]})
    script = ["chroot", "/host", sys.executable, "-I", "-S", "-c", MAKE_SIBLINGS]
    shim.execute("c1", "e1", script)
    assert shim.reap("c1", "e1")["code"] == 0
    shim.wait_for(lambda: len(shim.children()) == 1)
    shim.kill("c1")
    shim.reap("c1")


def test_terminal(shim: Shim) -> None:
    """Size, controlling terminal, echo, /dev/console, and end of file by EIO."""
    size = {"height": 33, "width": 77}
    script = "tty; stty size; [ -t 0 -a -t 1 -a -t 2 ] && echo all; echo x > /dev/console; "
    script += "cat /proc/self/stat | cut -d' ' -f7; read line; echo got $line"
    shim.launch("c1", ["sh", "-c", script], tty=True, consoleSize=size)
    os.write(shim.fd("master", "c1"), b"typed\n")
    lines = shim.output("c1").split("\r\n")
    lines.remove("typed")  # the echo, which comes when it comes
    device = str(os.makedev(136, 0))
    assert lines == ["/dev/pts/0", "33 77", "all", "x", device, "got typed", ""]
    assert shim.reap("c1")["code"] == 0


def test_terminal_can_be_resized_and_interrupted(shim: Shim) -> None:
    """The daemon's ioctl on the master reaches the program; Ctrl-C is SIGINT."""
    script = "trap 'stty size; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    shim.launch("c1", ["sh", "-c", script], tty=True)
    master = shim.fd("master", "c1")
    shim.wait_for(lambda: readable(master, b"ready"))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
    os.write(master, b"\x03")
    assert "11 22" in shim.output("c1")
    assert shim.reap("c1")["code"] == 9


def readable(fd: int, text: bytes) -> bool:
    """Whether the text has arrived on a non-blocking descriptor."""
    try:
        return text in os.read(fd, 4096)
    except BlockingIOError:
        return False


def test_terminal_belongs_to_the_user(shim: Shim) -> None:
    """A user can open its own terminal again."""
    code, out, _ = shim.run("c1", ["sh", "-c", "echo again > $(tty)"], tty=True, login="alice")
    assert (code, out) == (0, "again\r\n")


def test_exec_with_terminal(box: Shim) -> None:
    """A second pty of the same devpts; the container's console stays what it was."""
    code, out, _ = run_exec(
        box, ["sh", "-c", "tty; stty size"], tty=True, consoleSize={"height": 5, "width": 6}
    )
    assert (code, out) == (0, "/dev/pts/0\r\n5 6\r\n")


def test_pipes_belong_to_the_user(shim: Shim) -> None:
    """/dev/stdout can be opened by a program that is not root."""
    code, out, err = shim.run("c1", ["sh", "-c", "echo re-opened > /proc/self/fd/1"], login="alice")
    assert (code, out, err) == (0, "re-opened\n", "")


def test_reaper(shim: Shim) -> None:
    """With init: true PID 1 is ours, reaps orphans, forwards signals, ends with the program."""
    script = (
        "trap 'echo term; exit 5' TERM; echo $$; (sleep 0.01 & ) ; echo ready; "
        "while :; do sleep 0.02; done"
    )
    shim.launch("c1", ["sh", "-c", script], init=True)
    stdout = shim.fd("stdout_read", "c1")
    os.set_blocking(stdout, False)
    shim.wait_for(lambda: readable(stdout, b"ready"))
    shim.kill("c1", 15)
    assert "term" in shim.output("c1")
    assert shim.reap("c1")["code"] == 5


def test_reaper_reaps_orphans(shim: Shim) -> None:
    """No zombie stays below our PID 1."""
    orphans = "(sh -c 'exit 0' &); (sh -c 'exit 0' &); sleep 0.2"
    look = "grep -qs 'State:.Z' /proc/[0-9]*/status || exit 0; i=$((i+1)); sleep 0.05"
    script = f"{orphans}; i=0; while [ $i -lt 200 ]; do {look}; done; exit 1"
    code, _, _ = shim.run("c1", ["sh", "-c", script], init=True)
    assert code == 0


def test_reaper_among_the_hosts_processes(shim: Shim) -> None:
    """Without a PID namespace it is not PID 1, and reaps orphans all the same."""
    kinds = ("mount", "uts", "ipc")
    created = shim.launch(
        "c1", ["sh", "-c", "(sleep 1000 &); read x"], init=True, stdin=True, namespaces=kinds
    )
    shim.wait_for(lambda: len(tasks(created["pid"])) == 2)
    orphan = max(tasks(created["pid"]))
    os.kill(orphan, 9)
    shim.wait_for(lambda: not os.path.exists(f"/proc/{orphan}"))
    shim.kill("c1", 15)
    assert shim.reap("c1")["code"] == 143


def tasks(pid: int) -> list[int]:
    """Return the children of a process."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def test_reaper_tells_a_death_by_signal(shim: Shim) -> None:
    """128 + n as everywhere, and a missing program is still told before start."""
    assert shim.run("c1", ["sh", "-c", "kill -9 $$"], init=True)[0] == 137
    shim.send_launch("c2", ["none"], init=True)
    assert shim.daemon.expect("failed", "c2")["errno"] == errno.ENOENT


def test_reaper_and_terminal(shim: Shim) -> None:
    """The program is the terminal's foreground job: Ctrl-C reaches it once."""
    script = "trap 'echo int; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    shim.launch("c1", ["sh", "-c", script], tty=True, init=True)
    master = shim.fd("master", "c1")
    shim.wait_for(lambda: readable(master, b"ready"))
    os.write(master, b"\x03")
    assert shim.output("c1").count("int") == 1
    assert shim.reap("c1")["code"] == 7
