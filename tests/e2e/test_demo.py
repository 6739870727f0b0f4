"""The README's first command: what it shows is true, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from tests.harness import BIN

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def test_demo() -> None:
    """Limits, pause, resume, metrics that equal the kernel's counters, a bill; and no trace."""
    environment = os.environ | {"ARUNTIME_VENV": str(BIN.parent), "ARUNTIME_NO_SETUP": "1"}
    done = subprocess.run(
        ["sh", ROOT / "deploy/demo.sh"],
        env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    shown = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), shown + done.stderr
    assert "\n67108864\n" in shown  # the limit, read inside
    assert re.search(r"demo: Up .* \(Paused\)", shown)
    for counter, metric in [
        (r"cpuacct\.usage \(ns\) ", r"aruntime_container_cpu_usage_seconds_total\{[^}]*\}"),
        (r"all our containers \(ns\) ", r"aruntime_tenant_cpu_seconds_total\{[^}]*\}"),
    ]:
        kernel = re.search(counter + r" *(\d+)", shown)
        ours = re.search(metric + r" ([\d.e+]+)", shown)
        assert kernel is not None
        assert ours is not None
        assert Decimal(kernel[1]) == Decimal(ours[1]) * 10**9
    assert re.search(r"acme +TO BE PAID", shown)
    assert "ledger.db: ok" in shown
    assert not list(Path("/tmp").glob("aruntime-demo.*"))
    assert not list(Path("/sys/fs/cgroup").glob("*/aruntime-demo-*"))
    links = {name for name in os.listdir("/sys/class/net") if re.fullmatch(r"ard\d+", name)}
    assert not links
