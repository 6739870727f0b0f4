"""What a container may and may not: users, capabilities, filters, namespaces joined and mapped."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from aruntime.kernel import capabilities
from tests.kernel.shim.commander import Shim

pytestmark = pytest.mark.kernel

CGROUPS = Path("/sys/fs/cgroup")


def status(text: str) -> dict[str, str]:
    """Return /proc/PID/status as a mapping."""
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def mask(*names: str) -> int:
    """Return the mask of capabilities."""
    return sum(1 << capabilities.NUMBERS[name] for name in names)


# --- user


@pytest.mark.parametrize(
    ("login", "groups", "expected"),
    [
        ("", [], "uid=0(root) gid=0(root)"),
        ("alice", [], "uid=1000(alice) gid=1000(alice) groups=29(audio)"),
        ("1000", [], "uid=1000(alice) gid=1000(alice) groups=29(audio)"),
        ("alice:audio", [], "uid=1000(alice) gid=29(audio)"),
        ("1234", [], "uid=1234 gid=0(root)"),
        ("1234:5678", [], "uid=1234 gid=5678"),
        ("alice:0", ["audio", "77"], "uid=1000(alice) gid=0(root) groups=29(audio),77"),
    ],
)
def test_user(shim: Shim, login: str, groups: list[str], expected: str) -> None:
    """Exactly the ids asked for, and no group of ours (CVE-2022-36109)."""
    _, out, _ = shim.run("c1", ["id"], login=login, groups=groups)
    uid, gid, *more = out.split()
    shown = {name for part in more for name in part.removeprefix("groups=").split(",")}
    wanted_uid, wanted_gid, *wanted_more = expected.split()
    assert (uid, gid) == (wanted_uid, wanted_gid)
    primary = gid.removeprefix("gid=")
    wanted = {name for part in wanted_more for name in part.removeprefix("groups=").split(",")}
    assert shown - {primary} == wanted


def test_numeric_user_of_the_specification(shim: Shim) -> None:
    """An OCI process.user is taken as it is, supplementary groups included."""
    user = {"uid": 5, "gid": 6, "additionalGids": [7, 8]}
    _, out, _ = shim.run("c1", ["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"], user=user)
    found = status(out)
    assert found["Uid"].split() == ["5"] * 4
    assert found["Gid"].split() == ["6"] * 4
    assert found["Groups"].split() == ["7", "8"]


@pytest.mark.parametrize("kind", ["fifo", "directory", "link to a device", "link out"])
def test_hostile_passwd(shim: Shim, rootfs: Path, kind: str) -> None:
    """Whatever the image has in place of /etc/passwd, init neither hangs nor reads the host's."""
    path = rootfs / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        (rootfs / "x").write_text("x")
        path.symlink_to("/proc/self/root/../../../../../../etc/passwd")
    shim.send_launch("c1", ["true"], login="daemon")
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "find the user"
    assert shim.children() == []


def test_working_directory_of_the_user(shim: Shim, rootfs: Path) -> None:
    """A directory only the user may enter is entered as the user (root without DAC override)."""
    private = rootfs / "private"
    private.mkdir(mode=0o700)
    os.chown(private, 1000, 1000)
    code, out, _ = shim.run("c1", ["pwd"], cwd="/private", login="alice")
    assert (code, out) == (0, "/private\n")


# --- capabilities, no_new_privs, seccomp, limits


def test_capabilities_of_root(shim: Shim) -> None:
    """What was asked for in each set, nothing inheritable or ambient (CVE-2022-29162)."""
    names = ["CAP_CHOWN", "CAP_KILL"]
    _, out, _ = shim.run("c1", ["cat", "/proc/self/status"], capabilities=names)
    found = status(out)
    expected = f"{mask(*names):016x}"
    assert [found[f"Cap{kind}"] for kind in ("Bnd", "Prm", "Eff")] == [expected] * 3
    assert [found[f"Cap{kind}"] for kind in ("Inh", "Amb")] == ["0" * 16] * 2


def test_capabilities_of_a_user(shim: Shim) -> None:
    """A user gets none, unless they are ambient."""
    _, out, _ = shim.run("c1", ["cat", "/proc/self/status"], login="alice")
    assert status(out)["CapEff"] == "0" * 16
    one = ["CAP_NET_BIND_SERVICE"]
    sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), one)
    user = {"uid": 1000, "gid": 1000}
    _, out, _ = shim.run("c2", ["cat", "/proc/self/status"], user=user, capability_sets=sets)
    assert status(out)["CapEff"] == status(out)["CapAmb"] == f"{mask(*one):016x}"


def test_capabilities_we_lack_are_a_warning(shim: Shim) -> None:
    """All of them were asked for; what this host cannot grant is left out and named."""
    everything = list(capabilities.NAMES)
    ours = capabilities.bounding()
    lacking = [name for name, bit in capabilities.NUMBERS.items() if not ours >> bit & 1]
    created = shim.launch("c1", ["cat", "/proc/self/status"], capabilities=everything)
    found = status(shim.output("c1"))
    shim.reap("c1")
    assert int(found["CapEff"], 16) == ours
    for name in lacking:
        assert name in created["warnings"][0]
    assert bool(lacking) == bool(created["warnings"])


def test_no_new_privileges(shim: Shim) -> None:
    """The bit is set when asked for, and not otherwise."""
    script = ["grep", "NoNewPrivs", "/proc/self/status"]
    assert shim.run("c1", script)[1].split()[1] == "0"
    assert shim.run("c2", script, noNewPrivileges=True)[1].split()[1] == "1"


def deny(number: int, *, errno_value: int = errno.EPERM) -> bytes:
    """Return a filter that fails one system call and allows the rest."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, number),  # equal?
        (0x06, 0, 0, 0x00050000 | errno_value),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in instructions)


MKDIR, GETCWD, EXECVE = 83, 79, 59
X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")


@X86
@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("login", ["", "alice"])
def test_seccomp(shim: Shim, login: str, no_new_privileges: bool) -> None:
    """The filter binds the program, with and without the privilege to load it."""
    options = {"login": login, "bpf": deny(MKDIR), "noNewPrivileges": no_new_privileges}
    code, out, err = shim.run(
        "c1", ["sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status"], **options
    )
    assert "not permitted" in err or "denied" in err
    assert out.split() == ["Seccomp:", "2"]
    assert code == 0


@X86
def test_filter_against_our_own_calls(shim: Shim) -> None:
    """A filter that denies getcwd and unshare does not hinder the setting up (engines.md R6)."""
    for place, number in enumerate((GETCWD, 272, 165, 160)):
        assert shim.run(f"c{place}", ["true"], bpf=deny(number), cwd="/tmp")[0] == 0


@X86
def test_filter_that_denies_execve(shim: Shim) -> None:
    """It is told as a failure of that step, after start."""
    shim.launch("c1", ["true"], bpf=deny(EXECVE), start=False)
    shim.daemon.send({"op": "start", "id": "c1"})
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == ("execve", errno.EPERM)
    assert shim.children() == []


def test_malformed_filter(shim: Shim) -> None:
    """The kernel's verdict is passed on."""
    shim.launch("c1", ["true"], bpf=b"\0" * 8, start=False)
    shim.daemon.send({"op": "start", "id": "c1"})
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["errno"]) == ("load the seccomp filter", errno.EINVAL)


def test_limit_above_ours(shim: Shim) -> None:
    """Raising a hard limit without CAP_SYS_RESOURCE fails and names the ulimit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    able = capabilities.capget()[0] >> capabilities.NUMBERS["CAP_SYS_RESOURCE"] & 1
    if able or hard == resource.RLIM_INFINITY:
        pytest.skip("this host may raise limits")
    limit = [{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]
    shim.send_launch("c1", ["true"], rlimits=limit)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == "set ulimit"
    assert failed["errno"] == errno.EPERM
    assert f"nofile ({hard + 1}:{hard + 1})" in failed["strerror"]


def test_limits_that_would_hinder_ourselves(shim: Shim) -> None:
    """Three open files, no processes, no file growth: they bind the program, not init."""
    limits = [
        {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
        for name, value in (("NOFILE", 3), ("NPROC", 1), ("FSIZE", 0), ("STACK", 1 << 20))
    ]
    _, out, _ = shim.run("c1", ["sh", "-c", "ulimit -n; ulimit -f"], rlimits=limits, login="alice")
    assert out.split() == ["3", "0"]


# --- cgroups


@pytest.fixture
def groups() -> Iterator[list[str]]:
    """Return a cgroup of this test in every hierarchy."""
    name = f"aruntime-test-{os.getpid()}"
    made = []
    for hierarchy in sorted(CGROUPS.iterdir()):
        if hierarchy.is_dir() and not hierarchy.is_symlink():
            (hierarchy / name / "c1").mkdir(parents=True)
            made.append(str(hierarchy / name / "c1"))
            if hierarchy.name == "cpuset":
                for level in (hierarchy / name, hierarchy / name / "c1"):
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (level / file).write_text((hierarchy / file).read_text())
    yield made
    for path in made:
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))


def test_cgroups_are_joined_before_their_namespace(shim: Shim, groups: list[str]) -> None:
    """Every hierarchy, seen from outside as told and from inside as the root."""
    created = shim.launch(
        "c1", ["sh", "-c", "cat /proc/self/cgroup; read x"], cgroup_dirs=groups, stdin=True
    )
    outside = Path(f"/proc/{created['pid']}/cgroup").read_text().splitlines()
    assert len(outside) == len(groups)
    assert all(line.endswith(f"/aruntime-test-{os.getpid()}/c1") for line in outside)
    shim.execute("c1", "e1", ["cat", "/proc/self/cgroup"], cgroup_dirs=groups)
    inside = shim.output("c1", "e1").splitlines()
    assert shim.reap("c1", "e1")["code"] == 0
    assert all(line.endswith(":/") for line in inside)
    os.write(shim.fd("stdin_write", "c1"), b"\n")
    assert shim.output("c1").splitlines() == inside
    shim.reap("c1")


def test_born_in_a_unified_cgroup(shim: Shim, groups: list[str]) -> None:
    """With nothing but a cgroup2 tree the child is cloned into it; a missing one is named."""
    unified = [path for path in groups if (Path(path) / "cgroup.controllers").exists()]
    if not unified:
        pytest.skip("no cgroup2 tree is mounted")
    created = shim.launch("c1", ["sleep", "1000"], cgroup_dirs=unified)
    lines = Path(f"/proc/{created['pid']}/cgroup").read_text().splitlines()
    assert f"0::/aruntime-test-{os.getpid()}/c1" in lines
    shim.kill("c1")
    shim.reap("c1")
    shim.send_launch("c2", ["true"], cgroup_dirs=[f"{unified[0]}/none"])
    failed = shim.daemon.expect("failed", "c2")
    assert (failed["step"], failed["errno"]) == ("join the cgroup", errno.ENOENT)
