"""What is known of other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from aruntime.kernel import process

# proc_pid_stat(5); the command is ") R 1 (" to confuse, exit_code is field 52
STAT = (
    b"4711 () R 1 () Z 1234 4711 4711 0 -1 4227084 0 0 0 0 1 2 0 0 20 0 1 0 987654 0 0 "
    b"18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 768\n"
)


def test_stat_with_parentheses_in_the_command() -> None:
    """The fields are counted from the last parenthesis: a command may hold some itself."""
    stat = process.ProcessStat(STAT)

    assert (stat.state, stat.ppid, stat.start_time, stat.exit_code) == ("Z", 1234, 987654, 768)
    assert stat.is_zombie


def test_stat_of_this_process() -> None:
    """The real file has the fields where the manual says."""
    stat = process.process_stat(os.getpid())

    assert stat is not None
    assert (stat.ppid, stat.is_zombie) == (os.getppid(), False)
    assert process.start_time(os.getpid()) == stat.start_time > 0


def test_no_such_process() -> None:
    """A process that is gone is None; asked for its start time it is an error."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    child.wait()

    assert process.process_stat(child.pid) is None
    with pytest.raises(ProcessLookupError):
        process.start_time(child.pid)


@pytest.mark.parametrize(
    ("status", "code"), [(0, 0), (7 << 8, 7), (signal.SIGKILL, 137), (signal.SIGSEGV | 0x80, 139)]
)
def test_shell_code(status: int, code: int) -> None:
    """A wait status is shown as shells do, a core dump or not."""
    assert process.shell_code(status) == code


def test_prctl_and_its_errors() -> None:
    """A number comes back, or an OSError."""
    assert process.prctl(process.PR_GET_NO_NEW_PRIVS) in (0, 1)
    with pytest.raises(OSError, match="Invalid"):
        process.prctl(-1)


def test_close_range() -> None:
    """Only the descriptors of the range are closed."""
    low = os.open("/", os.O_PATH)
    high = os.dup(low)
    assert high > low

    process.close_range(high, high)

    assert os.fstat(low)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(high)
    os.close(low)


def test_close_range_marks_cloexec() -> None:
    """With CLOSE_RANGE_CLOEXEC the descriptors stay open until execve."""
    fd = os.open("/", os.O_PATH)
    os.set_inheritable(fd, True)

    process.close_range(fd, fd, process.CLOSE_RANGE_CLOEXEC)

    assert not os.get_inheritable(fd)
    os.close(fd)
