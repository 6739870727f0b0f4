"""Attacks by a container's processes on the runtime that starts others beside them.

What each attack would get hold of (a descriptor of the host, the runtime's executable or memory,
its environment) is looked for from inside while the runtime is at work.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import archives, programs
from tests.harness import RunningDaemon, wait_until

pytestmark = pytest.mark.e2e

EXECS = 25


@pytest.fixture
def box(shared_daemon: RunningDaemon) -> Iterator[str]:
    """Yield the name of a container to execute in."""
    shared_daemon.run("run", "-d", "--name", "box", "busybox", "sleep", "999")
    yield "box"
    shared_daemon.run("rm", "-f", "box")


def descriptors(listing: str) -> set[str]:
    """Return the numbers in a listing of /proc/self/fd by ls, without the one ls opened."""
    numbers = set(listing.split())
    return numbers - {"3"}


def test_no_descriptor_of_the_host(shared_daemon: RunningDaemon, box: str) -> None:
    """CVE-2024-21626, CVE-2016-9962: the program has its three streams, whatever the caller has."""
    leaked = [os.open("/etc", os.O_RDONLY | os.O_DIRECTORY) for _ in range(12)]
    try:
        for args in (
            ("run", "--rm", "busybox"),
            ("run", "--rm", "--init", "busybox"),
            ("exec", box),
        ):
            done = subprocess.run(
                [shared_daemon.client, *args, "ls", "/proc/self/fd"],
                env=shared_daemon.env,
                pass_fds=leaked,
                capture_output=True,
                text=True,
                check=True,
            )
            assert descriptors(done.stdout) == {"0", "1", "2"}
    finally:
        for fd in leaked:
            os.close(fd)


def test_no_descriptor_of_a_daemon_that_was_given_some(busybox_tar: bytes) -> None:
    """The same where the daemon itself was started with descriptors that nobody closed."""
    daemon = RunningDaemon()
    leaky = daemon.base / "leaky"
    leaky.write_text(f'#!/bin/bash\nexec 7</etc 8</ 17</etc\nexec {daemon.program} "$@"\n')
    leaky.chmod(0o755)
    daemon.program = str(leaky)
    try:
        daemon.start()
        daemon.load_busybox(busybox_tar)
        daemon.run("run", "-d", "--name", "box", "busybox", "sleep", "999")
        for args in (("run", "--rm", "busybox"), ("exec", "box")):
            assert descriptors(daemon.out(*args, "ls", "/proc/self/fd")) == {"0", "1", "2"}
        inside = daemon.out("exec", "box", "ls", "/proc/1/fd")
        assert set(inside.split()) == {"0", "1", "2"}
    finally:
        daemon.destroy()


@pytest.mark.parametrize("number", range(3, 16))
def test_working_directory_by_descriptor(
    shared_daemon: RunningDaemon, box: str, number: int
) -> None:
    """CVE-2024-21626: -w /proc/self/fd/N leads nowhere outside of the root."""
    for place in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../.."):
        for args in (("run", "--rm", "-w", place, "busybox"), ("exec", "-w", place, box)):
            done = shared_daemon.run(*args, "ls", "-d", "etc/shadow", "../etc/shadow", code=None)
            assert "etc/shadow" not in done.stdout


EXECUTABLES = ["/proc/self/exe", "/proc/thread-self/exe", "/proc/1/exe"]


@pytest.mark.parametrize("program", [*EXECUTABLES, "/script"])
def test_own_executable_as_the_program(
    shared_daemon: RunningDaemon, busybox_tar: bytes, program: str
) -> None:
    """CVE-2019-5736: what starts the container, run as its program, can be neither read nor kept.

    It would be a copy in memory, in any case: no file of the host is behind it.
    """
    before = interpreter_state()
    content = archives.tar(archives.file("script", b"#!/proc/self/exe\n", mode=0o755))
    layers = [busybox_tar, content]
    shared_daemon.run("load", stdin=archives.docker_archive(layers, "exe:1"))
    name = shared_daemon.out("run", "-d", "exe:1", "sleep", "999")
    for args in (("run", "--rm", "exe:1"), ("run", "--rm", "--init", "exe:1"), ("exec", name)):
        done = shared_daemon.run(*args, program, "-c", "import os; print(os.getpid())", code=None)
        assert done.returncode != 0 or "BusyBox" in done.stdout + done.stderr
    shared_daemon.run("rm", "-f", name)

    assert interpreter_state() == before


def interpreter_state() -> tuple[int, int, int]:
    """Return what changes when the interpreter's file is written or replaced."""
    status = os.stat(os.path.realpath(sys.executable))
    return status.st_ino, status.st_size, status.st_mtime_ns


SPY = r"""
$| = 1; my (%met, %caught); print "watching\n";
sub hidden { return !defined(readlink "/proc/$_[0]/exe") && $!{EACCES} }
sub note { my ($pid, $what) = @_; $caught{$what}++ if hidden($pid) }
until (-e "/tmp/stop") {
    opendir(my $proc, "/proc"); my @pids = grep { /^\d+$/ && $_ > 1 } readdir $proc;
    closedir $proc;
    for my $pid (@pids) {
        if (hidden($pid)) { $met{$pid}++; look_into($pid); next }
        my $exe = readlink("/proc/$pid/exe") // next;
        next if $exe =~ m{^/usr/bin/};
        $caught{"exe $exe"}++;
        $caught{"WRITE $exe"}++ if open(my $file, "+<", "/proc/$pid/exe");
    }
}
sub look_into {
    my ($pid) = @_;
    for my $name (qw(environ mem maps auxv)) {
        open(my $file, "<", "/proc/$pid/$name") or next;
        note($pid, $name) if sysread($file, my $text, 4096);
    }
    for my $name (qw(root cwd ns/mnt), map { "fd/$_" } 0 .. 30) {
        my $place = readlink "/proc/$pid/$name" or next;
        note($pid, "$name $place");
    }
    return if syscall(101, 16, $pid + 0, 0, 0);  # PTRACE_ATTACH
    note($pid, "traced");
    waitpid $pid, 0; syscall(101, 17, $pid + 0, 0, 0); kill "CONT", $pid;
}
printf "met %d\n", scalar keys %met;
print "caught $_\n" for sort keys %caught;
"""
"""Looks at every process as it comes: what can be read, opened or traced before its execve.

What it gets hold of is only reported of a process that still hides what it executes, or executes
a file that is none of the container's.
"""


def test_processes_on_their_way_in_cannot_be_looked_at(debian_daemon: RunningDaemon) -> None:
    """CVE-2019-5736, CVE-2016-9962: no exe, descriptor, memory or environment of an exec's init.

    The spy must have met some of them in that state, or the test would say nothing.
    """
    debian_daemon.run("run", "-d", "--name", "spied", "debian", "perl", "-MErrno", "-e", SPY)
    wait_until(lambda: "watching" in debian_daemon.out("logs", "spied"))
    try:
        for _ in range(EXECS):
            debian_daemon.run("exec", "-e", "SECRET=1", "spied", "/usr/bin/true", code=None)
        debian_daemon.run("exec", "spied", "touch", "/tmp/stop", code=None)
        debian_daemon.out("wait", "spied", timeout=20)
        report = debian_daemon.out("logs", "spied").splitlines()
    finally:
        debian_daemon.run("rm", "-f", "spied")

    met = int(report[1].removeprefix("met "))
    assert met > 0
    assert [line for line in report if line.startswith("caught")] == []


def test_even_with_ptrace_nothing_of_the_host_can_be_written(debian_daemon: RunningDaemon) -> None:
    """With CAP_SYS_PTRACE an exec's init can be looked at: it runs from sealed memory."""
    before = interpreter_state()
    flags = ("--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined")
    watch = SPY.replace("look_into($pid); ", "")
    debian_daemon.run(
        "run", "-d", "--name", "spied", *flags, "debian", "perl", "-MErrno", "-e", watch
    )
    wait_until(lambda: "watching" in debian_daemon.out("logs", "spied"))
    try:
        for _ in range(EXECS):
            debian_daemon.run("exec", "spied", "/usr/bin/true")
        debian_daemon.run("exec", "spied", "touch", "/tmp/stop", code=None)
        debian_daemon.out("wait", "spied", timeout=20)
        report = debian_daemon.out("logs", "spied").splitlines()
    finally:
        debian_daemon.run("rm", "-f", "spied")
    seen = [line.removeprefix("caught ") for line in report if line.startswith("caught")]

    assert seen
    assert [line for line in seen if not line.startswith("exe /memfd:")] == []
    assert interpreter_state() == before


def test_no_release_agent(shared_daemon: RunningDaemon) -> None:
    """CVE-2022-0492: nothing below /sys/fs/cgroup can be written, no hierarchy mounted."""
    script = (
        "find /sys/fs/cgroup -writable -type d; find /sys/fs/cgroup -name release_agent;"
        "for f in $(find /sys/fs/cgroup -type f -name '*release*' -o -name cgroup.procs); do"
        " (echo 1 > $f) 2>/dev/null && echo wrote $f; done;"
        "for c in cpu memory devices pids freezer; do"
        " mount -t cgroup -o $c x /mnt 2>/dev/null && echo mounted $c; done;"
        "mount -t cgroup2 x /mnt 2>/dev/null && echo mounted two; true"
    )

    assert shared_daemon.out("run", "--rm", "busybox", "sh", "-c", script) == ""


def test_no_way_out_by_chroot(debian_daemon: RunningDaemon) -> None:
    """The classic: a directory held open over a second chroot leads no further than the root."""
    script = (
        "mkdir '/tmp/c'; opendir(my $held, '/'); chroot('/tmp/c') or die;"
        "syscall(81, fileno($held)) == 0 or die;"  # fchdir
        "chdir('..') for 1 .. 30; chroot('.') or die;"
        "print -e '/.aruntime-canary' ? 'out' : 'in', ' ', join(',', (stat('/'))[0, 1])"
    )
    root = debian_daemon.out("run", "--rm", "debian", "perl", "-e", script)

    assert root.startswith("in ")
    host = os.stat("/")
    assert root != f"in {host.st_dev},{host.st_ino}"


def test_signals_reach_nobody_outside(shared_daemon: RunningDaemon) -> None:
    """kill -1 from inside ends the container's processes and no others."""
    victim = shared_daemon.out("run", "-d", "busybox", "sleep", "999")
    shared_daemon.run("run", "--rm", "busybox", "sh", "-c", "kill -9 -1; true", code=None)

    assert shared_daemon.out("inspect", "-f", "{{.State.Running}}", victim) == "true"
    assert shared_daemon.process is not None
    assert shared_daemon.process.poll() is None
    shared_daemon.run("rm", "-f", victim)


def test_no_key_of_who_started_the_daemon(debian_daemon: RunningDaemon) -> None:
    """Each container and each exec has a session keyring of its own, even without a filter."""
    show = 'print syscall(250, 0, -3, 0), " ", syscall(250, 11, -3, my $b = "\\0" x 64, 64)'
    flags = ("--security-opt", "seccomp=unconfined")
    held = debian_daemon.out("run", "-d", *flags, "debian", "sleep", "999")
    shown = [
        debian_daemon.out("run", "--rm", *flags, "debian", "perl", "-e", show),
        debian_daemon.out("run", "--rm", *flags, "debian", "perl", "-e", show),
        debian_daemon.out("exec", held, "perl", "-e", show),
        subprocess.run(["perl", "-e", show], capture_output=True, text=True, check=True).stdout,
    ]
    debian_daemon.run("rm", "-f", held)

    assert len({text.split()[0] for text in shown}) == 4
    assert [text.split()[1] for text in shown[:3]] == ["0"] * 3  # bytes of ids in it


CALLS = {
    "i386": "b820010000bb0f270000cd80",
    "x32": "b8fa000040bf0f2700000f05",
    "x86-64": "b8fa000000bf0f2700000f05",
}
"""keyctl(9999): what the filter refuses with EPERM and the kernel with EOPNOTSUPP."""

EXIT = "f7d889c7b83c0000000f05"
"""neg eax; exit(eax): the errno is the exit code."""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
@pytest.mark.parametrize("numbers", CALLS)
def test_the_filter_holds_for_every_kind_of_call(
    shared_daemon: RunningDaemon, busybox_tar: bytes, numbers: str
) -> None:
    """A call by the number of another architecture is filtered as the native one is."""
    program = programs.elf(bytes.fromhex(CALLS[numbers] + EXIT))
    layer = archives.tar(archives.file("call", program, mode=0o755))
    image = f"call:{numbers}"
    shared_daemon.run("load", stdin=archives.docker_archive([busybox_tar, layer], image))
    run = ("run", "--rm", image, "/call")
    free = ("run", "--rm", "--security-opt", "seccomp=unconfined", image, "/call")

    assert shared_daemon.run(*run, code=None).returncode == errno.EPERM
    unfiltered = shared_daemon.run(*free, code=None).returncode
    assert unfiltered in (errno.EOPNOTSUPP, errno.ENOSYS, 128 + signal.SIGSEGV)
