"""Flags of run that shape what a container sees: each by its effect inside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

DEFAULT_MASK = "00000000a80425fb"
"""docker's fourteen capabilities."""


class Inside:
    """Runs shell lines in fresh containers without a network."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon

    def __call__(self, *flags: str, sh: str, code: int | None = 0) -> str:
        """Output of a shell line in a container with these flags, stderr included."""
        network = () if "--network" in flags else ("--network", "none")
        line = ("run", "--rm", *network, *flags, "busybox", "sh", "-c", f"exec 2>&1; {sh}")
        return self.daemon.run(*line, code=code).stdout.strip()


@pytest.fixture
def inside(daemon: RunningDaemon) -> Inside:
    """A way to look from inside."""
    return Inside(daemon)


def status(text: str) -> dict[str, str]:
    """Fields of /proc/PID/status."""
    return {key: value.strip() for key, _, value in (x.partition(":") for x in text.splitlines())}


def test_privileges(inside: Inside) -> None:
    """Capabilities, no-new-privileges, users, privileged."""
    show = "cat /proc/self/status"
    plain = status(inside(sh=show))
    assert plain["CapBnd"] == plain["CapEff"] == DEFAULT_MASK
    assert plain["CapInh"] == plain["CapAmb"] == "0" * 16
    assert (plain["Seccomp"], plain["NoNewPrivs"]) == ("2", "0")
    one = status(inside("--cap-drop", "all", "--cap-add", "chown", sh=show))
    assert one["CapBnd"] == "0000000000000001"
    user = status(inside("-u", "1000:1001", "--security-opt", "no-new-privileges", sh=show))
    assert (user["CapEff"], user["CapBnd"]) == ("0" * 16, DEFAULT_MASK)
    assert user["Uid"].split()[0] == "1000"
    assert user["Gid"].split()[0] == "1001"
    assert user["NoNewPrivs"] == "1"
    free = status(inside("--privileged", sh=f"{show}; mount -t tmpfs x /mnt && echo mounted: yes"))
    own = status(Path("/proc/self/status").read_text())
    assert free["CapBnd"] == own["CapPrm"]
    assert (free["Seccomp"], free["mounted"]) == ("0", "yes")
    assert "uid=1000(user) gid=1000(user) groups=44" in inside(
        "-u", "user", "--group-add", "44", sh="id"
    )


def test_seccomp_profiles(inside: Inside, tmp_path: Path) -> None:
    """The default one, none, and one of the user's own."""
    assert "Operation not permitted" in inside(sh="unshare -U true", code=1)
    assert inside("--security-opt", "seccomp=unconfined", sh="unshare -U echo yes") == "yes"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    chosen = f"seccomp={profile}"
    assert "No space left" in inside("--security-opt", chosen, sh="mkdir /x", code=1)


def test_process_settings(inside: Inside, tmp_path: Path) -> None:
    """Environment, directory, limits of setrlimit, sysctls, OOM score, host name."""
    variables = tmp_path / "variables"
    variables.write_text("# comment\nA=file\nB=two words\nHOME\n")
    env = inside("--env-file", str(variables), "-e", "A=line", "-h", "box", sh="env").splitlines()
    assert {"A=line", "B=two words", "HOME=/root", "HOSTNAME=box"} <= set(env)
    assert inside("-w", "/new/place", sh="pwd") == "/new/place"
    assert inside(
        "--ulimit", "nofile=64:128", "--sysctl", "net.core.somaxconn=99", "--sysctl",
        "kernel.msgmax=1234", "--oom-score-adj", "500", "--domainname", "example.org",
        sh="ulimit -Sn; ulimit -Hn; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax"
        " /proc/self/oom_score_adj /proc/sys/kernel/domainname",
    ).split() == ["64", "128", "99", "1234", "500", "example.org"]  # fmt: skip


def test_file_systems(inside: Inside, tmp_path: Path) -> None:
    """Binds, volumes, tmpfs, the read-only root, the size of /dev/shm."""
    (tmp_path / "f").write_text("hello")
    read_only = inside("-v", f"{tmp_path}:/a:ro", sh="cat /a/f; touch /a/x", code=1)
    assert read_only.startswith("hello")
    assert "Read-only file system" in read_only
    inside("--mount", f"type=bind,src={tmp_path},dst=/b", sh="echo 1 > /b/new")
    assert (tmp_path / "new").read_text() == "1\n"
    inside("-v", f"{tmp_path}/made/by/us:/c", sh="touch /c/x")
    assert (tmp_path / "made/by/us/x").exists()
    inside("-v", "kept:/d", sh="echo kept > /d/x")
    assert inside("-v", "kept:/d:ro", sh="cat /d/x") == "kept"
    fenced = inside(
        "--read-only", "--tmpfs", "/t:size=1m,exec", "--shm-size", "3m",
        sh="touch /x; touch /t/x && grep -E ' /(t|dev/shm) ' /proc/mounts",
    )  # fmt: skip
    assert "touch: /x: Read-only file system" in fenced
    assert "tmpfs /t tmpfs rw,nosuid,nodev,relatime,size=1024k" in fenced
    assert "size=3072k" in fenced


def test_devices(inside: Inside) -> None:
    """A node appears under its new name and the device cgroup lets it be used."""
    device = "/dev/fuse" if os.path.exists("/dev/fuse") else "/dev/net/tun"
    number = os.stat(device).st_rdev
    shown = inside("--device", f"{device}:/dev/own", sh="stat -c '%t %T' /dev/own; : < /dev/own")
    assert shown == f"{os.major(number):x} {os.minor(number):x}"
    node = f"mknod /n c {os.major(number)} {os.minor(number)}; : < /n"
    assert "Operation not permitted" in inside(sh=node, code=1)
    rule = f"c {os.major(number)}:{os.minor(number)} r"
    assert inside("--device-cgroup-rule", rule, sh=node) == ""


def test_shared_namespaces(inside: Inside, daemon: RunningDaemon) -> None:
    """Those of the host, and those of another container."""
    host = os.uname().nodename
    assert inside("--uts", "host", "--ipc", "host", "--network", "host", sh="hostname") == host
    assert int(inside("--pid", "host", sh="ls -d /proc/[0-9]* | wc -l")) > 5
    assert inside("--ipc", "none", sh="ls /dev | grep -c shm", code=1) == "0"
    daemon.run("run", "-d", "--name", "first", "--network", "none", "busybox", "sleep", "1000")
    seen = inside(
        "--network", "container:first", "--pid", "container:first", sh="readlink /proc/1/exe; ps"
    )
    assert "sleep 1000" in seen
    daemon.run("rm", "-f", "first")


def test_a_user_namespace_of_its_own(inside: Inside) -> None:
    """Root inside is nobody outside; a volume has the ids the container sees, in every range."""
    show = "cat /proc/self/uid_map; touch /v/mine && stat -c '%u:%g' /v/mine / /proc/1"
    first, *owners = inside("--userns", "auto", "-v", "vol:/v", sh=show).splitlines()
    inner, outer, count = map(int, first.split())
    assert (inner, count) == (0, 65536)
    assert outer >= 65536
    assert owners == ["0:0"] * 3
    assert inside("-v", "vol:/v", sh="stat -c '%u:%g' /v/mine") == "0:0"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-p", "80:80:80:80"], "80:80:80:80"),
        (["--nope"], "unknown flag: --nope; see 'aruntime run --help'"),
        (["-m", "1k"], "minimum memory limit allowed is 6MB"),
        (["-v", "/a:/proc/sys"], "/proc/sys cannot be mounted because it is inside /proc"),
        (["--env-file", "/missing"], "open /missing: no such file or directory"),
        (["--device", "/dev/missing"], "/dev/missing"),
        (["--mount", "type=bind,src=/missing,dst=/x"], "bind source path does not exist: /missing"),
        (["--network", "mine"], "network mine not found; see"),
        (["--name", "a b"], "invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-]"),
    ],
)
def test_bad_flags_leave_nothing(daemon: RunningDaemon, flags: list[str], message: str) -> None:
    """One line, exit code 125, no container."""
    done = daemon.run("run", "--rm", *flags, "busybox", "true", code=125)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert daemon.out("ps", "-aq") == ""
