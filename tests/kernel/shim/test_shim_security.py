"""Attacks on the way into a container (engines.md §5) and failures at every step of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aruntime.container import messages
from aruntime.shim import boot
from tests.kernel.shim.commander import Shim

pytestmark = pytest.mark.kernel

PACKAGE = Path(boot.__file__).parents[2]


# --- the sealed copy


def test_children_run_from_a_sealed_memfd(shim: Shim) -> None:
    """/proc/PID/exe of a child before execve is in memory and cannot be written (CVE-2019-5736)."""
    created = shim.launch("c1", ["sleep", "1000"], start=False)
    for pid in (shim.process.pid, created["pid"]):
        path = f"/proc/{pid}/exe"
        assert os.readlink(path).startswith("/memfd:aruntime-shim")
        with pytest.raises(OSError, match=r"(Text file busy|Permission denied|not permitted)"):
            os.open(path, os.O_WRONLY)
        fd = os.open(path, os.O_RDONLY)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & boot.ALL_SEALS == boot.ALL_SEALS
        with pytest.raises(OSError, match=r"(Text file busy|Permission denied|not permitted)"):
            os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        os.close(fd)
    shim.kill("c1")
    shim.reap("c1")


@pytest.mark.parametrize("kind", ["program", "interpreter"])
def test_own_executable_as_the_command(shim: Shim, rootfs: Path, kind: str) -> None:
    """``/proc/self/exe`` and ``#!/proc/self/exe`` reach a copy that finds no library inside."""
    script = rootfs / "bin" / "attack"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    command = {"program": "/proc/self/exe", "interpreter": "/bin/attack"}[kind]
    shim.launch("c1", [command, "-c", "print('inside')"], start=False)
    shim.daemon.send({"op": "start", "id": "c1"})
    message = shim.daemon.receive()
    if message["op"] == "running":  # ld.so inside is missing its library, or is the attacker's
        assert shim.output("c1") == ""
        assert shim.reap("c1")["code"] != 0
    else:
        assert message["step"] == "execve"
    assert shim.run("c2", ["true"])[0] == 0


@pytest.mark.parametrize("target", ["/proc/self/fd/7", "/proc/self/fd/3/..", "/proc/1/fd/6"])
def test_working_directory_through_a_descriptor(shim: Shim, target: str) -> None:
    """No descriptor leads out of the container (CVE-2024-21626)."""
    shim.send_launch("c1", ["pwd"], cwd=target)
    message = shim.daemon.receive()
    assert message["op"] == "failed"
    assert message["step"] == "change to the working directory"


def test_nothing_of_the_host_is_imported_inside(shim: Shim, rootfs: Path) -> None:
    """Poisoned modules where the standard library would be are never read (CVE-2019-14271)."""
    library = Path(os.__file__).parent
    poisoned = rootfs / str(library).lstrip("/")
    for directory in (poisoned, poisoned / "encodings", poisoned / "ctypes"):
        directory.mkdir(parents=True)
    for path in [*library.glob("*.py"), *library.glob("encodings/*.py")]:
        copy = rootfs / str(path).lstrip("/")
        copy.write_text(f"open('/poisoned', 'a').write({path.name!r})\n")
    project = rootfs / str(PACKAGE).lstrip("/") / "aruntime"
    project.mkdir(parents=True)
    (project / "__init__.py").write_text("open('/poisoned', 'a').write('aruntime')\n")
    shim.run("c1", ["true"], login="alice", cwd="/new")
    shim.run("c2", ["true"], tty=True, init=True)
    shim.send_launch("c3", ["no such program"])
    shim.daemon.expect("failed", "c3")
    shim.send_launch("c4", ["true"], login="no such user")
    shim.daemon.expect("failed", "c4")
    shim.launch("c5", ["sleep", "1000"])
    shim.execute("c5", "e1", ["true"], login="alice", tty=True)
    shim.reap("c5", "e1")
    shim.kill("c5")
    shim.reap("c5")
    assert not (rootfs / "poisoned").exists()


def test_waiting_init_cannot_be_looked_into(shim: Shim) -> None:
    """Root in the same PID namespace, with docker's capabilities, cannot open anything of a
    process that has not executed its program yet (CVE-2016-9962)."""
    shim.launch("c1", ["sleep", "1000"])
    join = {"pid": f"/proc/{shim.children()[0]}/ns/pid"}
    waiting = shim.launch("c2", ["true"], join=join, start=False)
    inside = status_of(waiting["pid"])["NSpid"].split()[-1]
    script = f"cat /proc/{inside}/environ; readlink /proc/{inside}/fd/* /proc/{inside}/exe"
    _, out, err = shim.run("c3", ["sh", "-c", f"{script}; echo end"], join=join)
    assert out == "end\n"
    assert "ermission denied" in err
    # The first of a PID namespace becomes a zombie when all others in it are reaped.
    shim.kill("c1")
    shim.reap("c2")
    shim.reap("c1")


def status_of(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as a mapping."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_console_is_a_link(shim: Shim, rootfs: Path) -> None:
    """/dev/console of an image that is a link out of it is not followed (CVE-2025-52565)."""
    canary = rootfs.parent / "canary"
    canary.write_text("untouched")
    (rootfs / "dev/console").symlink_to(canary)
    shim.run("c1", ["sh", "-c", "echo x > /dev/console"], tty=True)
    assert canary.read_text() == "untouched"


# --- what is loaded


FORBIDDEN = set(
    """dataclasses typing enum re threading subprocess json socket signal logging pathlib asyncio
    selectors collections functools contextlib site msgspec trio""".split()  # noqa: SIM905 - a list of words
)


def test_modules_of_the_shim() -> None:
    """Started as it really is, it has loaded nothing that costs start-up and memory."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE)!r});"
        "import aruntime.shim.boot, aruntime.shim.serve; print(*sorted(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, *boot.INTERPRETER_FLAGS, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    loaded = set(ran.stdout.split())
    assert not loaded & FORBIDDEN
    assert len(loaded) < 100


def test_memory_of_the_shim(shim: Shim) -> None:
    """An empty shim is small, and stays small with containers."""

    def resident() -> int:
        return int(status_of(shim.process.pid)["VmRSS"].split()[0])

    empty = resident()
    assert empty < 16_000
    names = [f"c{number}" for number in range(60)]
    for name in names:
        shim.launch(name, ["sleep", "1000"])
    full = resident()
    for name in names:
        shim.kill(name)
        shim.reap(name)
    assert full - empty < 600


# --- a failure at every step


FAILING: list[tuple[str, dict[str, Any]]] = [
    (messages.STEP_OOM_SCORE, {"oomScoreAdj": 5000}),
    (messages.STEP_CGROUP, {"cgroup_dirs": ["/sys/fs/cgroup/none"]}),
    (messages.STEP_JOIN, {"join": {"ipc": "/none"}}),
    (messages.STEP_NETLINK_INSIDE, {"netlink": [{"host": "", "inside": "AAAA", "netns_fd": 250}]}),
    (messages.STEP_NETLINK_HOST, {"netlink": [{"host": "AAAA", "inside": "", "netns_fd": 250}]}),
    (messages.STEP_HOSTNAME, {"hostname": "x" * 65}),
    (messages.STEP_DOMAINNAME, {"spec": {"domainname": "x" * 65}}),
    (
        f"{messages.STEP_ROOTFS} (mount)",
        {"spec": {"mounts": [{"destination": "/x", "type": "nofs", "source": "x"}]}},
    ),
    (messages.STEP_USER, {"login": "nobody-there"}),
    (messages.STEP_RLIMIT, {"rlimits": [{"type": "RLIMIT_NICE", "soft": 0, "hard": 1 << 40}]}),
    (messages.STEP_CWD, {"cwd": "/etc/passwd/x"}),
    (messages.STEP_LOOKUP, {"env": []}),
]


@pytest.mark.parametrize(("step", "options"), FAILING, ids=[step for step, _ in FAILING])
def test_failure_at_every_step_leaves_nothing(
    shim: Shim, step: str, options: dict[str, Any]
) -> None:
    """The step is named; no child, descriptor or mount stays, and the next launch works."""
    mounts = Path(f"/proc/{shim.process.pid}/mountinfo").read_text()
    before = shim.descriptors()
    shim.send_launch("c1", ["true"], **options)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == step
    assert failed["strerror"]
    assert "\n" not in failed["strerror"]
    assert shim.children() == []
    assert shim.descriptors() == before
    assert Path(f"/proc/{shim.process.pid}/mountinfo").read_text() == mounts
    assert shim.run("c1", ["true"])[0] == 0


def test_console_without_a_devpts(shim: Shim) -> None:
    """A terminal needs a devpts of the container's own."""
    spec = {"mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}]}
    shim.send_launch("c1", ["true"], tty=True, spec=spec)
    failed = shim.daemon.expect("failed", "c1")
    assert (failed["step"], failed["path"]) == (messages.STEP_CONSOLE, "/dev/pts/ptmx")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version": 1, "kind": "exec"}', b"\xff" * 10])
def test_payload_that_is_none(shim: Shim, content: bytes) -> None:
    """Nothing is forked."""
    shim.request({"op": "launch", "id": "c1"}, content)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["step"] == messages.STEP_PAYLOAD
    assert shim.children() == []


def test_init_killed_at_any_time(shim: Shim, tmp_path: Path) -> None:
    """Killed before it is ready: a failed launch that says so; killed after: a dead container."""
    os.mkfifo(tmp_path / "cgroup.procs")
    shim.send_launch("c1", ["true"], cgroup_dirs=[str(tmp_path)])
    shim.wait_for(shim.children)
    os.kill(shim.children()[0], 9)
    failed = shim.daemon.expect("failed", "c1")
    assert failed["strerror"] == "init died while it was set up: killed by signal 9"
    shim.launch("c2", ["true"], start=False)
    shim.kill("c2")
    shim.wait_exit("c2")
    shim.daemon.send({"op": "start", "id": "c2"})
    assert shim.daemon.expect("failed", "c2")["step"] == messages.STEP_START
    assert shim.children() == []


SYSCALLS = {
    "setsid": 112,
    "unshare": 272,
    "mount_setattr": 442,
    "open_tree": 428,
    "move_mount": 429,
    "pivot_root": 155,
    "umount2": 166,
    "sethostname": 170,
    "setgroups": 116,
    "setresgid": 119,
    "setresuid": 117,
    "capset": 126,
    "capget": 125,
    "openat2": 437,
    "fchown": 93,
    "mknodat": 259,
    "symlinkat": 266,
    "fsopen": 430,
    "fsmount": 432,
    "close_range": 436,
}

WITH_FILTER = """
import ctypes, os, struct, sys
number, refusal = int(sys.argv[1]), int(sys.argv[2])
code = b"".join(struct.pack("=HBBI", *one) for one in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number),
    (0x06, 0, 0, 0x50000 | refusal), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(code, len(code))
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(buffer)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(22, 2, ctypes.c_ulong(ctypes.addressof(program)), 0, 0) == 0
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("name", SYSCALLS)
def test_each_system_call_may_fail(
    tmp_path: Path, rootfs: Path, name: str, shim_class: Any
) -> None:
    """A kernel that refuses one call: the launch fails by name or works without it; in both
    cases the shim goes on and nothing is left."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    prefix = [sys.executable, "-I", "-S", "-c", WITH_FILTER, str(SYSCALLS[name]), "5"]
    shim = shim_class(run_dir, rootfs, prefix=prefix)
    try:
        before = shim.descriptors()
        shim.send_launch("c1", ["true"], login="alice", start=True)
        message = shim.daemon.expect_one_of(("failed", "created"), "c1")
        if message["op"] == "created":
            ended = shim.daemon.expect_one_of(("failed", "running"), "c1")
            if ended["op"] == "running":
                shim.reap("c1")
        else:
            assert message["errno"] == 5
        assert shim.children() == []
        assert shim.descriptors() == before
    finally:
        shim.close()
