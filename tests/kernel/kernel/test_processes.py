"""clone3, zombies and pidfds."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

Isolated = Callable[..., str]


def test_clone3_is_a_fork(isolated: Isolated) -> None:
    """The child runs on as a whole interpreter; the parent gets its pid, a pidfd and SIGCHLD."""
    output = isolated("""
        import signal
        signal.signal(signal.SIGCHLD, lambda *_: print("SIGCHLD", flush=True))
        pid, pidfd = namespaces.clone3(0)
        if pid == 0:
            import json  # the import lock is free, files can be opened
            print("child", json.dumps([pidfd, os.getppid() > 1]), flush=True)
            os._exit(5)
        wait_readable(pidfd)
        print(os.get_inheritable(pidfd), os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status)
    """)

    assert sorted(output.split("\n")) == ["", "False 5", "SIGCHLD", "child [-1, true]"]


def test_clone3_into_namespaces(isolated: Isolated) -> None:
    """With CLONE_NEWPID the child is process 1."""
    output = isolated("""
        pid, pidfd = namespaces.clone3(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS)
        if pid == 0:
            process.sethostname("inside")
            process.setdomainname("domain")
            print(os.getpid(), os.uname().nodename, flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        print(os.uname().nodename)
    """)

    assert output.split("\n")[:2] == ["1 inside", os.uname().nodename]


def test_clone3_with_clone_parent(isolated: Isolated) -> None:
    """With CLONE_PARENT the new process is a sibling: its parent is the caller's."""
    output = isolated("""
        read_fd, write_fd = os.pipe()
        me = os.getpid()
        pid, _ = namespaces.clone3(0)
        if pid == 0:
            sibling, _ = namespaces.clone3(namespaces.CLONE_PARENT)
            if sibling == 0:
                os.write(write_fd, b"x")
                os._exit(os.getppid() == me)
            os._exit(0)
        os.read(read_fd, 1)
        codes = sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2))
        print(codes)
    """)

    assert output == "[0, 1]\n"


def test_clone3_into_a_cgroup(isolated: Isolated) -> None:
    """CLONE_INTO_CGROUP makes the child a member from its first moment."""
    group = Path(f"/sys/fs/cgroup/unified/aruntime-test-{os.getpid()}-clone")
    if not group.parent.joinpath("cgroup.procs").exists():
        pytest.skip("no cgroup2 tree is mounted at /sys/fs/cgroup/unified")
    group.mkdir()
    try:
        output = isolated(
            """
            fd = os.open(sys.argv[1], os.O_PATH)
            pid, pidfd = namespaces.clone3(0, cgroup_fd=fd)
            if pid == 0:
                print(open("/proc/self/cgroup").read().splitlines()[-1], flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            """,
            str(group),
        )
    finally:
        group.rmdir()

    assert output == f"0::/{group.name}\n"


def test_clone3_failure_leaves_no_child(isolated: Isolated) -> None:
    """A refused combination of flags is an OSError; the interpreter goes on as before."""
    output = isolated("""
        import threading
        try:
            namespaces.clone3(namespaces.CLONE_PARENT | 0x00010000)  # CLONE_THREAD without VM
        except OSError as error:
            print(error.strerror)
        try:
            os.wait()
        except ChildProcessError:
            print("no child")
        thread = threading.Thread(target=print, args=("threads work",))
        thread.start(); thread.join()
    """)

    assert output.splitlines() == ["Invalid argument", "no child", "threads work"]


def test_zombie(isolated: Isolated) -> None:
    """A zombie shows its wait status, gets off the CPU, and yields the exit only when reaped."""
    output = isolated("""
        pid, pidfd = namespaces.clone3(0)
        if pid == 0:
            os._exit(3)
        wait_readable(pidfd)
        while not process.is_off_cpu(pid):
            pass
        stat = process.process_stat(pid)
        print(stat.state, stat.exit_code, stat.ppid == os.getpid(), process.pidfd_get_exit(pidfd))
        os.waitpid(pid, 0)
        print(process.process_stat(pid), process.is_off_cpu(pid), process.pidfd_get_exit(pidfd))
    """)

    zombie, reaped = output.splitlines()
    assert zombie == "Z 768 True None"
    # Linux before 6.15 cannot tell.
    assert reaped in ("None True 768", "None True None")


def test_exit_by_signal(isolated: Isolated) -> None:
    """A death by signal is told as wait status too; a running process is on the CPU."""
    output = isolated("""
        pid, pidfd = namespaces.clone3(0)
        if pid == 0:
            while True: pass
        print(process.is_off_cpu(pid), process.pidfd_get_exit(pidfd))
        process.pidfd_send_signal(pidfd, process.SIGKILL)
        os.waitpid(pid, 0)
        print(process.pidfd_get_exit(pidfd))
    """)

    running, killed = output.splitlines()
    assert running == "False None"
    assert killed in ("9", "None")


def test_subreaper(isolated: Isolated) -> None:
    """Orphans of orphans become children of the subreaper."""
    output = isolated("""
        process.set_child_subreaper()
        assert process.prctl(process.PR_SET_CHILD_SUBREAPER, 1) == 0
        if namespaces.clone3(0)[0] == 0:
            if namespaces.clone3(0)[0] == 0:
                os._exit(9)
            os._exit(1)
        print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
    """)

    assert output == "[1, 9]\n"


def test_dumpable(isolated: Isolated) -> None:
    """A process that is not dumpable belongs to root in /proc, whatever its user."""
    output = isolated("""
        process.set_dumpable(False)
        print(process.prctl(process.PR_GET_DUMPABLE))
        process.set_dumpable(True)
        print(process.prctl(process.PR_GET_DUMPABLE))
    """)

    assert output == "0\n1\n"


def test_session_keyring_of_its_own(isolated: Isolated) -> None:
    """After joining, the session keyring is another one, also for children."""
    output = isolated(
        """
        import ctypes
        from aruntime.kernel import keyrings, libc

        get = libc.syscall(keyrings.SYS_KEYCTL[os.uname().machine], libc.cint, libc.cint, libc.cint)
        print(get(0, -3, 0))  # KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING
        keyrings.join_session_keyring()
        print(get(0, -3, 0), flush=True)
        pid, _ = namespaces.clone3(0)
        if pid == 0:
            print(get(0, -3, 0), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """
    )
    before, after, of_child = map(int, output.split())

    assert before != after
    assert of_child == after > 0
