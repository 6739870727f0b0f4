"""The command line that /proc shows of a process that has not executed its program yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel

PROGRAM = """
from aruntime.kernel import process
process.set_cmdline(b"aruntime-init")
print(open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").decode())
"""


def test_set_cmdline_replaces_all_of_it() -> None:
    """Nothing of the former arguments is left to be seen."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "a secret path"], capture_output=True, text=True, check=True
    )

    assert done.stdout == "aruntime-init\n"
