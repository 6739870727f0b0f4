"""Attacks on the daemon: its files and sockets, names and numbers that are made to mislead."""

from __future__ import annotations

import ipaddress
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

NOBODY = 65534
LARGE = "x" * 100_000


@pytest.fixture(scope="module")
def box(shared_daemon: RunningDaemon) -> str:
    """Return the name of a running container that has written files."""
    script = "umask 0; echo > /f; cp /bin/busybox /v/id; chmod 4755 /v/id; sleep 999"
    shared_daemon.run("run", "-d", "--name", "box", "-v", "kept:/v", "busybox", "sh", "-c", script)
    program = shared_daemon.root / "volumes/kept/_data/id"
    wait_until(lambda: program.exists() and program.stat().st_mode & stat.S_ISUID)
    # What other users see, were the base directory of the test not closed to them anyway.
    shared_daemon.base.chmod(0o755)
    return "box"


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the host as an ordinary user."""
    return subprocess.run(
        command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True
    )


def client_as_nobody(daemon: RunningDaemon, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the client as an ordinary user, who need not be able to read the interpreter's files."""
    program = (
        "import os, select, encodings.idna; from aruntime.cli import autostart, client;"
        "autostart.dispatch.load_registry();"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); client.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *args], env=daemon.env, capture_output=True, text=True
    )


def test_files_of_containers_are_closed_to_others(shared_daemon: RunningDaemon, box: str) -> None:
    """CVE-2021-41091: no path leads an ordinary user into a layer or a container's files."""
    root = shared_daemon.root
    assert stat.S_IMODE(root.stat().st_mode) & 0o066 == 0
    reached = as_nobody("find", str(root), "-maxdepth", "6", "-mindepth", "1")
    assert reached.stdout == ""
    container = shared_daemon.out("inspect", "-f", "{{.Id}}", box)
    upper = root / "containers" / container / "upper"
    assert (upper / "f").exists()
    closed = [
        root / "images",
        root / "containers" / container,
        root / "seccomp",
        upper / "f",
        upper.parent / "log",
        upper.parent / "spec.json",
        root / "ledger.db",
        root / "volumes/kept/_data/id",
    ]
    for path in closed:
        assert path.exists(), path
        assert as_nobody("cat", str(path)).returncode != 0, path
        assert as_nobody("ls", f"{path}/").returncode != 0, path
    with pytest.raises(PermissionError):
        as_nobody(str(root / "volumes/kept/_data/id"))


def test_sockets_are_closed_to_others(shared_daemon: RunningDaemon, box: str) -> None:
    """0660 and 0600 at most, by path names only, and an ordinary user cannot connect."""
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in shared_daemon.run_dir.iterdir()
        if path.is_socket()
    }
    assert modes.pop("aruntime.sock") == 0o660
    assert modes == {"shim.sock": 0o600}
    refused = client_as_nobody(shared_daemon, "ps")
    assert refused.returncode == 125
    assert "permission denied" in refused.stderr.lower()


def test_no_abstract_socket(shared_daemon: RunningDaemon, box: str) -> None:
    """CVE-2020-15257: containers on the host's network reach none of ours."""
    listed = Path("/proc/net/unix").read_text().splitlines()
    assert [line for line in listed if "@" in line and "aruntime" in line] == []


def test_containers_have_no_access_to_the_daemon(shared_daemon: RunningDaemon) -> None:
    """Neither its sockets nor its directories are visible inside, on whatever network."""
    script = f"ls -d {shared_daemon.run_dir} {shared_daemon.root} /run/aruntime*"
    for flags in ((), ("--network", "host"), ("--pid", "host"), ("--privileged",)):
        done = shared_daemon.run("run", "--rm", *flags, "busybox", "sh", "-c", script, code=None)
        assert done.stdout == ""


def test_metrics_are_not_served_to_the_bridge(shared_daemon: RunningDaemon) -> None:
    """The metrics are on a loopback address: a container on the bridge cannot scrape them."""
    address, _, port = (shared_daemon.run_dir / "metrics.addr").read_text().strip().rpartition(":")
    assert address == "127.0.0.1"
    gateway = str(next(ipaddress.ip_network(shared_daemon.subnet).hosts()))
    done = shared_daemon.run("run", "--rm", "busybox", "nc", "-w", "5", gateway, port, code=1)
    assert "refused" in done.stderr
    with socket.create_connection((address, int(port)), 5):
        pass


NAMES = [
    "a b",
    "a\nb",
    'a"b',
    "a'b",
    "../x",
    "a/b",
    "a\\b",
    ".x",
    "-x",
    "é",
    "a;b",
    "$(id)",
    "a\0b"[:1] + ":",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_refused(shared_daemon: RunningDaemon, name: str) -> None:
    """A container's name is letters, digits, dots, hyphens and underscores."""
    done = shared_daemon.run("create", f"--name={name}", "busybox", "true", code=125)

    assert done.stderr.count("\n") == 1
    assert shared_daemon.run("rename", "nobody", name, code=None).returncode != 0


@pytest.mark.parametrize(
    "reference", ["../../x", "bad/id", "", "/", ".", "..", "*", "a\nb", "%00", "x" * 64, "0" * 4000]
)
@pytest.mark.parametrize(
    "command", ["inspect", "start", "stop", "rm", "logs", "exec", "pause", "wait"]
)
def test_references_that_lead_nowhere(
    shared_daemon: RunningDaemon, command: str, reference: str
) -> None:
    """What is no container's name or id is no path either."""
    args = (command, reference, *(("true",) if command == "exec" else ()))
    done = shared_daemon.run(*args, code=None)

    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert done.stdout.strip() in ("", "[]")


@pytest.mark.parametrize("source", ["../../etc", "a/b", "..", ".x", "x\ny", 'x"y', "-x"])
def test_volume_names_that_are_refused(shared_daemon: RunningDaemon, source: str) -> None:
    """A named volume is a directory below the daemon's own, never another."""
    mount = f"type=volume,src={source},dst=/v"
    done = shared_daemon.run("run", "--rm", "--mount", mount, "busybox", "true", code=None)

    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert {path.name for path in shared_daemon.root.glob("volumes/*")} <= {"kept"}


def test_commands_cannot_forge_rows(shared_daemon: RunningDaemon) -> None:
    """A command with line ends and escape sequences is one row of ps, and harmless there."""
    forged = "x\n0123456789ab   forged\x1b[2J\x9b"
    name = shared_daemon.out("run", "-d", "busybox", "sh", "-c", "sleep 999", forged)
    rows = shared_daemon.out("ps", "--no-trunc")
    shared_daemon.run("rm", "-f", name)

    assert [line for line in rows.splitlines() if line.startswith("0123456789ab")] == []
    assert "\x1b" not in rows
    assert "\x9b" not in rows
    assert r"x\n0123456789ab   forged\x1b[2J" in rows
    done = shared_daemon.run("run", "--rm", "busybox", forged, code=127)
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


LINES = ["--dns-search=a\nnameserver 6.6.6.6", "--dns-option=a\nnameserver 6.6.6.6",
         "--add-host=a\n6.6.6.6 b:1.2.3.4", "--hostname=a\n6.6.6.6 b", "--domainname=a\nb",
         "--dns=6.6.6.6\nsearch x"]  # fmt: skip


@pytest.mark.parametrize("flag", LINES)
def test_no_line_can_be_slipped_into_name_files(shared_daemon: RunningDaemon, flag: str) -> None:
    """A line end in a value adds no line to /etc/hosts or /etc/resolv.conf."""
    done = shared_daemon.run("run", "--rm", flag, "busybox", "true", code=125)

    assert done.stderr.count("\n") == 1


def test_metrics_stay_well_formed(shared_daemon: RunningDaemon) -> None:
    """Quotes, backslashes and line ends in what a user may choose are escaped or refused."""
    texts = ['a"b', "a\\b", "a\\nb", "a\nb", 'a"} 1\nevil_metric 2\n', "ä\t€", "{}", ","]
    accepted = []
    for index, text in enumerate(texts):
        done = shared_daemon.run(
            "run", "-d", f"--name=m{index}", f"--tenant={text}", f"--label={text}={text}",
            "busybox", "sleep", "999", code=None,
        )  # fmt: skip
        if done.returncode == 0:
            accepted.append((f"m{index}", text))
    families = {
        family.name: family for family in text_string_to_metric_families(shared_daemon.metrics())
    }
    shared_daemon.run("rm", "-f", *(name for name, _ in accepted))

    assert accepted  # quotes and backslashes are allowed in a tenant
    assert "evil_metric" not in families
    tenants = {
        sample.labels["name"]: sample.labels["tenant"]
        for family in families.values()
        for sample in family.samples
        if {"name", "tenant"} <= set(sample.labels)
    }
    assert {name: tenants[name] for name, _ in accepted} == dict(accepted)


def test_large_values_are_kept_whole_or_refused(shared_daemon: RunningDaemon) -> None:
    """CVE-2021-43784: nothing is cut where a length field ends."""
    for flag, field in (
        (f"--label=large={LARGE}", "{{.Config.Labels.large}}"),
        (f"--annotation=large={LARGE}", "{{.HostConfig.Annotations.large}}"),
    ):
        name = shared_daemon.out("run", "-d", flag, "busybox", "sleep", "999")
        assert shared_daemon.out("inspect", "-f", field, name) == LARGE
        shared_daemon.run("rm", "-f", name)
    for flag in (
        f"--sysctl=net.core.somaxconn={LARGE}",
        f"--sysctl=net.{LARGE}=1",
        f"--hostname={LARGE}",
        f"--user={LARGE}",
        f"--workdir=/{LARGE}",
        f"--device={LARGE}",
        f"--cap-add={LARGE}",
        f"--ulimit={LARGE}=1",
    ):
        done = shared_daemon.run("run", "--rm", flag, "busybox", "true", code=None)
        assert done.returncode in (125, 126), flag[:20]
        assert done.stderr.count("\n") == 1


def test_large_environment_reaches_the_program(shared_daemon: RunningDaemon) -> None:
    """A variable of 100 kB is whole; one beyond the kernel's limit is an error and no cut."""
    assert shared_daemon.out(
        "run", "--rm", "-e", f"LARGE={LARGE}", "busybox", "sh", "-c", "echo ${#LARGE}"
    ) == str(len(LARGE))
    done = shared_daemon.run(
        "run", "--rm", "--env-file", env_file(shared_daemon), "busybox", "true", code=None
    )
    assert done.returncode in (125, 126)
    assert "argument list too long" in done.stderr.lower()


def env_file(daemon: RunningDaemon) -> str:
    """Write a file with a variable longer than MAX_ARG_STRLEN (128 KiB)."""
    path = daemon.base / "large.env"
    path.write_text(f"LARGE={LARGE * 2}\n")
    return str(path)


def test_files_are_opened_at_the_callers_rights(shared_daemon: RunningDaemon, box: str) -> None:
    """Files named on the command line are opened by the client: its user's rights count.

    The socket is opened to nobody for the time of the test.
    """
    secret = shared_daemon.base / "secret.env"
    secret.write_text("SECRET=1\n")
    secret.chmod(0o600)
    sock = shared_daemon.run_dir / "aruntime.sock"
    sock.chmod(0o666)
    try:
        allowed = client_as_nobody(shared_daemon, "ps")
        done = client_as_nobody(
            shared_daemon, "run", "--rm", "--env-file", str(secret), "busybox", "env"
        )
    finally:
        sock.chmod(0o660)

    assert allowed.returncode == 0
    assert done.returncode == 125
    assert done.stdout == ""
    assert "permission denied" in done.stderr
