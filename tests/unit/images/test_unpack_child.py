"""The unpacking child as a process: what it imports, what it may do, when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aruntime.daemon.children import PACKAGES
from aruntime.daemon.unpacking import CHILD
from aruntime.images.compression import Limits
from aruntime.kernel import capabilities
from tests import archives
from tests.harness import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's privileges: needs root")


def start(base: Path, archive: int, parent: int | None = None) -> subprocess.Popen[bytes]:
    """Start a child as the daemon does."""
    for name in ("store", "ingest"):
        (base / name / "blobs/sha256").mkdir(parents=True)
        (base / name / "layers").mkdir()
    request = {
        "operation": "import",
        "fd": archive,
        "store": str(base / "store"),
        "ingest": str(base / "ingest"),
        "parent": os.getpid() if parent is None else parent,
        "limits": list(Limits()),
    }
    return subprocess.Popen(
        [sys.executable, "-I", f"{PACKAGES}/aruntime/{CHILD}", PACKAGES, json.dumps(request)],
        stdout=subprocess.PIPE,
        pass_fds=(archive,),
    )


def test_it_imports_the_standard_library_only() -> None:
    """It starts for every import: nothing slow, and nothing of the daemon's, is loaded."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import aruntime.images.unpack\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", code, PACKAGES], capture_output=True, text=True, check=True
    )

    loaded = set(done.stdout.split())
    assert loaded - set(sys.stdlib_module_names) == {"aruntime"}
    assert not loaded & {"asyncio", "dataclasses", "subprocess", "tarfile", "socket"}


def test_it_works_without_privileges_it_does_not_need(tmp_path: Path) -> None:
    """No network administration, no tracing, no modules, and nothing to be gained by exec."""
    reading, writing = os.pipe()
    try:
        with start(tmp_path, reading) as child:
            os.write(writing, archives.tar(archives.file("a"))[:512])
            unpacking = tmp_path / "ingest/unpacking/a"
            wait_until(unpacking.exists, what="the child unpacks")
            text = Path(f"/proc/{child.pid}/status").read_text()
            status = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
            child.kill()
    finally:
        os.close(reading)
        os.close(writing)

    effective = int(status["CapEff"], 16)
    for name in ("CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_SETUID", "CAP_KILL"):
        assert not effective >> capabilities.NUMBERS[name] & 1
    assert status["CapPrm"] == status["CapEff"]
    assert status["NoNewPrivs"] == "1"


def test_it_ends_when_its_daemon_is_gone_even_while_it_waits(tmp_path: Path) -> None:
    """An archive that never comes does not keep a child, and the store's lock, for ever."""
    reading, writing = os.pipe()
    try:
        with start(tmp_path, reading, parent=1 << 22) as child:
            assert child.stdout is not None
            answer = json.loads(child.stdout.read())
    finally:
        os.close(reading)
        os.close(writing)

    assert answer["error"] == {"kind": "Unavailable", "message": "the daemon is gone"}
