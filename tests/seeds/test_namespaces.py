"""The source document, 1.4: what the six namespaces separate.

One test per command shown there; what it types on its host is looked up on this one.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness import RunningDaemon
from tests.terminal import PROMPT, Terminal

pytestmark = pytest.mark.e2e

SIX = ("ipc", "mnt", "net", "pid", "user", "uts")


def own_namespaces() -> dict[str, str]:
    """Return the namespaces of this process: kind to ``kind:[number]``."""
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in SIX}


def seen_namespaces(listing: str) -> dict[str, str]:
    """Return kind and target of the links in a listing by ``ls -l``, which may quote them."""
    return dict(re.findall(r" (\w+) -> '?([^'\s]+)", listing))


def host_user(absent_from: str) -> str:
    """Return a user of this host that an image's /etc/passwd does not name."""
    inside = {line.partition(":")[0] for line in absent_from.splitlines()}
    names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_name not in inside]
    assert names, "every user of this host is also in a minimal Debian"
    return names[0]


def test_ls_proc_on_the_host_and_inside(host: RunningDaemon) -> None:
    """``cd /proc; ls``: the kernel's files for both, but inside only the container's processes."""
    with Terminal(host, "run", "-it", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        terminal.ask("cd /proc")
        inside = terminal.ask("ls").split()
        pids = {int(name) for name in inside if name.isdigit()}

        assert {"meminfo", "loadavg", "mounts", "key-users", "kmsg"} <= set(inside)
        assert {"meminfo", "loadavg", "mounts", "key-users", "kmsg"} <= set(os.listdir("/proc"))
        assert 1 in pids
        assert len(pids) == 2  # bash and ls
        assert max(pids) < 20


def test_pid_of_the_shell(host: RunningDaemon) -> None:
    """``echo $$``: PID 1 inside, and the same process has a number of its own on the host."""
    with Terminal(host, "run", "-it", "--name", "first", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        pid = int(host.out("inspect", "-f", "{{.State.Pid}}", "first"))

        assert terminal.ask("echo $$") == "1"
        assert re.search(
            rf"^NSpid:\t{pid}\t1$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
        )


def test_ls_l_of_the_shells_namespaces(host: RunningDaemon) -> None:
    """``cd /proc/$$/ns; ls -l``: each is another than the host's, but user, shared by default."""
    with Terminal(host, "run", "-it", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        terminal.ask("cd /proc/$$/ns")
        inside = seen_namespaces(terminal.ask("ls -l"))
    outside = own_namespaces()

    assert {kind for kind in SIX if inside[kind] != outside[kind]} == set(SIX) - {"user"}
    assert all(inside[kind].startswith(f"{kind}:[") for kind in SIX)


def test_all_six_namespaces_differ_with_a_user_namespace(host: RunningDaemon) -> None:
    """The same with ``--userns auto``: all six are the container's own."""
    with Terminal(host, "run", "-it", "--userns", "auto", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)
        inside = seen_namespaces(terminal.ask("ls -l /proc/$$/ns"))

    assert {kind for kind in SIX if inside[kind] != own_namespaces()[kind]} == set(SIX)


def test_ls_of_the_shells_namespaces(host: RunningDaemon) -> None:
    """``ls`` there names the six of the document."""
    with Terminal(host, "run", "-it", "centos", "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert set(SIX) <= set(terminal.ask("ls /proc/$$/ns").split())


def test_two_containers_share_no_namespace(host: RunningDaemon) -> None:
    """Between containers, too, everything but the user namespace is separate."""
    listing = ("run", "--rm", "centos", "ls", "-l", "/proc/self/ns")
    held = host.out("run", "-d", "centos", "sleep", "999")
    one = seen_namespaces(host.out("exec", held, "ls", "-l", "/proc/self/ns"))
    other = seen_namespaces(host.out(*listing))
    host.run("rm", "-f", held)

    assert {kind for kind in SIX if one[kind] == other[kind]} == {"user"}


def test_ps_a_shows_what_has_ended(host: RunningDaemon) -> None:
    """``ps -a``: docker's columns, and Exited (0) with the time that has passed."""
    name = "ended"
    host.run("run", "--name", name, "ubuntu:latest", "/bin/bash")
    header, *rows = host.out("ps", "-a").splitlines()
    titles = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    (row,) = [row for row in rows if row.endswith(f" {name}")]

    assert re.split(r" {2,}", header.strip()) == titles
    cells = {title: row[header.index(title) :].split("  ")[0].strip() for title in titles}
    assert re.fullmatch("[0-9a-f]{12}", cells["CONTAINER ID"])
    assert cells["IMAGE"] == "ubuntu:latest"
    assert cells["COMMAND"] == '"/bin/bash"'
    assert re.fullmatch(
        r"(Less than a second|[0-9]+ seconds?|About a minute) ago", cells["CREATED"]
    )
    assert re.fullmatch(r"Exited \(0\) (Less than a second|[0-9]+ seconds?) ago", cells["STATUS"])


@pytest.fixture
def started(host: RunningDaemon) -> str:
    """Return the name of a container that has ended once and was started again."""
    name = "test-again"
    if not host.out("ps", "-q", "--filter", f"name={name}"):
        with Terminal(host, "run", "-it", "--name", name, "centos", "/bin/bash") as terminal:
            terminal.expect(PROMPT)
            assert terminal.leave() == 0
        host.run("start", name)
    return name


def test_start_runs_it_again(host: RunningDaemon, started: str) -> None:
    """``start test``: prints the name; the shell runs again, waiting for a terminal."""
    assert host.out("ps", "--filter", f"name={started}", "--format", "{{.State}}") == "running"
    host.run("stop", "-t", "0", started)
    assert host.out("start", started) == started
    assert host.out("inspect", "-f", "{{.State.Running}}", started) == "true"


def test_exec_gives_a_second_shell(host: RunningDaemon, started: str) -> None:
    """``exec -it test /bin/bash``: a prompt in the same container."""
    with Terminal(host, "exec", "-it", started, "/bin/bash") as terminal:
        short = terminal.expect(PROMPT)[1]

        assert host.out("inspect", "-f", "{{.Id}}", started).startswith(short)
        assert terminal.ask("tr '\\0' ' ' < /proc/1/cmdline").strip() == "/bin/bash"
        assert terminal.leave() == 0


def test_a_user_of_the_host_is_unknown_inside(host: RunningDaemon, started: str) -> None:
    """``id bdqn``: a user that ``id`` finds on the host does not exist in the container."""
    user = host_user(host.out("exec", started, "cat", "/etc/passwd"))
    on_host = subprocess.run(["id", user], capture_output=True, text=True, check=True).stdout
    with Terminal(host, "exec", "-it", started, "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert terminal.ask(f"id {user}") == f"id: '{user}': no such user"
    assert on_host.startswith(f"uid={pwd.getpwnam(user).pw_uid}({user}) ")


def test_pid_of_the_second_shell_is_small(host: RunningDaemon, started: str) -> None:
    """``echo $$`` in exec: a small number of the container's own counting, as 14 there."""
    with Terminal(host, "exec", "-it", started, "/bin/bash") as terminal:
        terminal.expect(PROMPT)

        assert 1 < int(terminal.ask("echo $$")) < 100
