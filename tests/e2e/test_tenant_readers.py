"""Tenants' read-only access: what a reader sees, and that nobody else sees anything."""

from __future__ import annotations

import grp
import json
import pwd
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

AS_USER = """
import json, os, sys
from aruntime.cli import autostart, client
uid, gid, groups, lines = json.loads(sys.argv[1])
os.setgroups(groups)
os.setgid(gid)
os.setuid(uid)
done = []
for line in lines:
    pipes = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        for number, (_, writable) in enumerate(pipes, start=1):
            os.dup2(writable, number)
        sys.argv = ["aruntime", *line]
        client.main()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for _, writable in pipes:
        os.close(writable)
    done.append([code, *(open(readable).read() for readable, _ in pipes)])
print(json.dumps(done))
"""
"""Clients of another user, everything imported before: the tests' Python may be root's alone."""
READER, MEMBER, STRANGER = "games", "man", "nobody"
GROUP = "news"
CHANGES = (
    "run", "create", "exec", "start", "stop", "kill", "restart", "pause", "resume", "rm",
    "rename", "update", "attach", "import", "load", "pull", "rmi", "tag", "info", "monitor",
)  # fmt: skip


def has_spoken(daemon: RunningDaemon, name: str) -> bool:
    """Whether what a container says is in its log."""
    return daemon.out("logs", name) == f"said by {name}"


@pytest.fixture(scope="module")
def shared(busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield a daemon with containers of two tenants, whose run directory users can reach."""
    daemon = RunningDaemon()
    try:
        daemon.base.chmod(0o755)
        daemon.start(f"--tenant-reader=acme={READER}", f"--tenant-reader=acme=@{GROUP}")
        daemon.load_busybox(busybox_tar)
        for name, tenant in (("theirs", "acme"), ("other", "globex")):
            script = f"echo said by {name}; exec sleep 99"
            words = ("run", "-d", "--name", name, "--tenant", tenant, "busybox", "sh", "-c")
            daemon.run(*words, script)
        for name in ("theirs", "other"):
            wait_until(partial(has_spoken, daemon, name))
        yield daemon
    finally:
        daemon.destroy()


class Done(NamedTuple):
    """What a command of another user did."""

    code: int
    out: str
    err: str


def as_user(
    daemon: RunningDaemon, user: str, *lines: str, groups: tuple[int, ...] = ()
) -> list[Done]:
    """Run command lines as another user of the host."""
    found = pwd.getpwnam(user)
    words = [line.split() for line in lines]
    who = json.dumps([found.pw_uid, found.pw_gid, groups, words])
    env = {key: text for key, text in daemon.env.items() if key != "ARUNTIME_HOST"}
    run = subprocess.run(
        [sys.executable, "-c", AS_USER, who], env=env, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return [Done(*one) for one in json.loads(run.stdout)]


@pytest.mark.parametrize("by", ["user", "group"])
def test_reader_sees_the_tenants_containers_only(shared: RunningDaemon, by: str) -> None:
    """ps, logs, inspect, stats, top and events show acme's container; globex's does not exist."""
    user, groups = (READER, ()) if by == "user" else (MEMBER, (grp.getgrnam(GROUP).gr_gid,))

    def run(*lines: str) -> list[Done]:
        return as_user(shared, user, *lines, groups=groups)

    listed, log, shown, used, processes, told = run(
        "ps -a --format {{.Names}}",
        "logs theirs",
        "inspect -f {{.Name}} theirs",
        "stats --no-stream --format {{.Name}}",
        "top theirs",
        "events --since 1h --until 0s --format {{.Actor.Attributes.name}}",
    )
    assert listed.out == "theirs\n"
    assert log.out == "said by theirs\n"
    assert shown.out == "/theirs\n"
    assert used.out == "theirs\n"
    assert "sleep 99" in processes.out
    assert set(told.out.split()) == {"theirs"}
    whole = shared.out("inspect", "-f", "{{.Id}}", "other")
    lines = [
        f"{command} {reference}"
        for reference in ("other", whole, whole[:12])
        for command in ("logs", "inspect", "top", "wait")
    ]
    for line, done in zip(lines, run(*lines), strict=True):
        assert done.code in (1, 125)
        assert "said by" not in done.out
        assert line.split()[1] in done.err


def test_reader_adds_up_the_tenants_usage_only(shared: RunningDaemon) -> None:
    """usage shows acme's row whatever is asked; another's does not exist."""
    own, named, other = as_user(
        shared,
        READER,
        "usage --by tenant --format {{.Tenant}}",
        "usage --tenant acme --format {{.Name}}",
        "usage --tenant globex",
    )
    assert own.out == "acme\n"
    assert named.out == "theirs\n"
    assert (other.code, other.err) == (125, "aruntime: no such tenant: globex\n")
    issue, listed, correct = as_user(
        shared, READER, "bill --issue --period 2020-01", "invoice ls", "ledger correct 1 --void"
    )
    assert (issue.code, "leave --issue out" in issue.err) == (125, True)
    assert {listed.code, correct.code} == {1}
    everybody = shared.out("usage", "--by", "tenant", "--format", "{{.Tenant}}")
    assert set(everybody.split()) == {"acme", "globex"}


def test_reader_changes_nothing(shared: RunningDaemon) -> None:
    """Every other command is unknown to a reader, and -D is refused."""
    lines = [f"{command} theirs" for command in CHANGES]
    for command, done in zip(CHANGES, as_user(shared, READER, *lines), strict=True):
        assert done.code == 1, command
        assert done.err.startswith(f"aruntime: '{command}' is not an aruntime command"), command
    image, debug = as_user(shared, READER, "inspect busybox", "-D ps")
    assert (image.code, image.out.strip()) == (1, "[]")
    assert debug.code == 125
    assert "not for tenants" in debug.err
    assert shared.out("ps", "-q", "--filter", "status=running").count("\n") == 1


def test_strangers_get_nothing(shared: RunningDaemon) -> None:
    """Who is named nowhere is told so in one line, whatever was asked; so is a foreign group."""
    audio = grp.getgrnam("audio").gr_gid
    for done in as_user(shared, STRANGER, "ps", "version", "info", "nonsense", groups=(audio,)):
        assert (done.code, done.out) == (125, "")
        assert done.err.startswith("aruntime: you may not look at any tenant's containers;")
        assert done.err.count("\n") == 1


def test_modes_of_the_sockets(shared: RunningDaemon) -> None:
    """The command socket stays closed to users; the readers' own is open to all."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in shared.run_dir.glob("*.sock")}
    assert modes == {"aruntime.sock": 0o660, "tenants.sock": 0o666, "shim.sock": 0o600}
