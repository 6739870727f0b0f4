"""What is decided when a daemon takes containers back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aruntime.container.config import ContainerConfig, RestartPolicy
from aruntime.container.state import ContainerState, Status
from aruntime.daemon import adoption
from aruntime.daemon.record import Container


def container(policy: str, status: Status, *, stopped_by_user: bool = False) -> Container:
    """Return a record that is not running."""
    config = ContainerConfig(
        id="c" * 64,
        name="box",
        created_ns=1,
        image="busybox",
        image_id="sha256:0",
        args=["true"],
        hostname="box",
        restart=RestartPolicy(name=policy),
    )
    state = ContainerState(status=status, stopped_by_user=stopped_by_user)
    return Container(config, state, "/nowhere")


@pytest.mark.parametrize(
    ("policy", "status", "stopped", "was_active", "expected"),
    [
        ("no", Status.EXITED, False, True, False),
        ("always", Status.EXITED, True, False, True),
        ("always", Status.CREATED, False, False, False),
        ("unless-stopped", Status.EXITED, False, True, True),
        ("unless-stopped", Status.EXITED, True, True, False),
        ("unless-stopped", Status.EXITED, False, False, True),  # stopped with the daemon
        ("on-failure", Status.EXITED, False, True, False),
    ],
)
def test_policies_at_the_start_of_a_daemon(
    policy: str, status: Status, stopped: bool, was_active: bool, expected: bool
) -> None:
    """Only those that docker would start are started."""
    found = container(policy, status, stopped_by_user=stopped)

    assert adoption.wants_start(found, was_active=was_active) is expected


def test_a_rotated_log_is_recognised(tmp_path: Path) -> None:
    """A descriptor of log.1 is not the log."""
    path = tmp_path / "log"
    path.write_text("old")
    fd = os.open(path, os.O_RDONLY)
    assert adoption.is_same_file(fd, str(path))
    path.rename(tmp_path / "log.1")
    assert not adoption.is_same_file(fd, str(path))
    path.write_text("new")
    assert not adoption.is_same_file(fd, str(path))
    os.close(fd)
