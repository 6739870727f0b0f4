"""The daemon's weight against other groups: asked for in a session of its own only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aruntime.daemon import priority

SHOW = """
import sys
from aruntime.daemon import priority
print(priority.prefer(sys.argv[1]))
print(open(sys.argv[1]).read().split()[-1])
"""


@pytest.mark.parametrize(("own_session", "shown"), [(True, "True -5"), (False, "False 0")])
def test_only_its_own_session_gets_weight(tmp_path: Path, own_session: bool, shown: str) -> None:
    """The kernel's file is written by the leader of a session, left alone by anybody else."""
    file = tmp_path / "autogroup"
    file.write_text("0\n")
    done = subprocess.run(
        [sys.executable, "-c", SHOW, str(file)],
        capture_output=True,
        check=True,
        text=True,
        start_new_session=own_session,
    )

    assert " ".join(done.stdout.split()) == shown


def test_the_kernel_takes_it() -> None:
    """Where it has such groups, the value is in force afterwards."""
    if not os.path.exists(priority.AUTOGROUP) or os.geteuid() != 0:
        pytest.skip("the kernel has no session groups (CONFIG_SCHED_AUTOGROUP), or not root")
    done = subprocess.run(
        [sys.executable, "-c", SHOW, priority.AUTOGROUP],
        capture_output=True,
        check=True,
        text=True,
        start_new_session=True,
    )

    assert done.stdout.split() == ["True", "-5"]


def test_a_kernel_without_groups_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to write to: no weight, no failure."""
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid())

    assert not priority.prefer(str(tmp_path / "none"))
