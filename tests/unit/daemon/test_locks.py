"""Locks of root and run directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aruntime.daemon import locks
from aruntime.errors import Conflict


def test_second_holder_is_told_the_first_ones_pid(tmp_path: Path) -> None:
    """The error names who holds the lock and for what."""
    path = tmp_path / "lock"
    with locks.hold(path, "uses /run/aruntime"):
        expected = rf"another aruntimed \(pid {os.getpid()}\) uses /run/aruntime"
        with pytest.raises(Conflict, match=expected), locks.hold(path, "uses /run/aruntime"):
            pass
        assert path.read_text() == f"{os.getpid()}\n"


def test_lock_is_free_again_and_empty(tmp_path: Path) -> None:
    """A lock that was let go can be taken, and names nobody meanwhile."""
    path = tmp_path / "lock"
    with locks.hold(path, "x"):
        pass
    assert path.read_text() == ""
    with locks.hold(path, "x"):
        pass


def test_failure_inside_leaves_nobody_named(tmp_path: Path) -> None:
    """A daemon that gives up while starting does not leave its pid behind."""
    path = tmp_path / "lock"
    with pytest.raises(KeyError), locks.hold(path, "x"):
        raise KeyError
    assert path.read_text() == ""


def test_stale_pid_of_a_killed_holder_is_replaced(tmp_path: Path) -> None:
    """A file left by a killed daemon is no obstacle, however long its pid was."""
    path = tmp_path / "lock"
    path.write_text("99999999999\n")
    with locks.hold(path, "x"):
        assert path.read_text() == f"{os.getpid()}\n"


def test_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    """A link planted in the directory is not written through."""
    target = tmp_path / "victim"
    target.write_text("keep")
    (tmp_path / "lock").symlink_to(target)
    with pytest.raises(OSError), locks.hold(tmp_path / "lock", "x"):
        pass
    assert target.read_text() == "keep"
