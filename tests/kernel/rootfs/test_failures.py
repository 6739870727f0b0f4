"""Every kernel call of a plan fails once: it is reported, and nothing stays open."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aruntime.rootfs import plan

if TYPE_CHECKING:
    from tests.kernel.rootfs.conftest import Container

pytestmark = pytest.mark.kernel

PROGRAM = Path(__file__).with_name("fail_everywhere.py")


def calls_of(interpreter: str, ops: list[list[Any]], *, host: bool = False) -> int:
    """Return how many calls a plan makes, after each of them has failed once."""
    done = subprocess.run(
        [interpreter, "-I", str(PROGRAM)],
        input=json.dumps({"ops": ops, "host": host}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_each_call_in_turn(container: Container, tmp_path: Path, interpreter: str) -> None:
    """Whichever call fails, the step is told with its errno and every descriptor is closed.

    The plan uses every kind of operation; mounts that were made go with the mount namespace,
    as the leak check sees.
    """
    (tmp_path / "volume").mkdir()
    container.mount("/data/new", "bind", tmp_path / "volume", "rbind", "ro", "rslave")
    container.mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "size=1m")
    container.spec["linux"] |= {
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [{"path": "/dev/a/b", "type": "c", "major": 1, "minor": 3, "uid": 5}],
        "rootfsPropagation": "shared",
    }
    container.spec["process"]["terminal"] = container.spec["root"]["readonly"] = True

    assert calls_of(interpreter, container.plan()) > 150


def test_each_call_of_the_hosts_half(
    container: Container, tmp_path: Path, interpreter: str
) -> None:
    """The same for what is done before the user namespace is entered."""
    (tmp_path / "volume").mkdir()
    container.use_user_namespace(700_000_000, 65536)
    container.mount("/data", "bind", tmp_path / "volume", "rbind", "ro")
    mappings = container.spec["linux"]["uidMappings"]
    container.spec["mounts"][-1] |= {"uidMappings": mappings, "gidMappings": mappings}

    host_ops, _ = plan.split(container.plan())

    assert calls_of(interpreter, host_ops, host=True) > 40
