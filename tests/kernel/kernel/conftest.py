"""Programs in a process of their own: whatever forks must be single-threaded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from textwrap import dedent

import pytest

PRELUDE = """
import os, sys
from aruntime.kernel import capabilities, mounts, namespaces, process, seccomp

def wait_readable(fd):
    import select
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(10_000), "nothing happened for ten seconds"
"""


@pytest.fixture(name="isolated")
def _isolated(interpreter: str) -> Callable[..., str]:
    """Return a function that runs a program in a fresh interpreter and returns its output."""

    def run(program: str, *arguments: str) -> str:
        source = PRELUDE + dedent(program)
        done = subprocess.run(
            [interpreter, "-I", "-c", source, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
