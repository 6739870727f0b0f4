"""The systemd units: restarting the daemon must harm no container, and nothing may be inherited."""

from __future__ import annotations

import configparser
import shlex
import tomllib
from pathlib import Path

import pytest

from aruntime.daemon.commands.flags import parse
from aruntime.daemon.commands.system import DAEMON
from aruntime.shim import boot

REPOSITORY = Path(__file__).parents[2]
INHERITED = (
    "Protect", "Private", "Restrict", "SystemCall", "NoNewPrivileges", "LockPersonality",
    "CapabilityBoundingSet", "ReadOnlyPaths", "InaccessiblePaths", "MemoryDenyWriteExecute",
)  # fmt: skip
"""Settings that containers would inherit through the shim, or that hide host paths from mounts."""


def unit(name: str) -> configparser.SectionProxy:
    """The [Service] section of a unit."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    # As the documentation of configparser has it: names keep their case.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((REPOSITORY / "deploy" / name).read_text())
    return parser["Service"]


@pytest.mark.parametrize("name", ["aruntimed.service", "aruntime-shim.service"])
def test_only_the_main_process_is_ever_killed(name: str) -> None:
    """What runs beside it (a container's init before it is in its group, a fallback shim) lives."""
    service = unit(name)
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert not [key for key in service if key.startswith(INHERITED)]


def test_daemon_unit_speaks_the_daemons_language() -> None:
    """READY by sd_notify, reload by SIGHUP, and a command line that the daemon accepts."""
    service = unit("aruntimed.service")
    assert service["Type"] == "notify"
    assert "-HUP" in service["ExecReload"]
    program, *words = shlex.split(service["ExecStart"])
    parse(DAEMON, words)
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(program).name in scripts


def test_shim_unit_runs_a_shim_that_stays() -> None:
    """It serves the default run directory, does not leave when idle, and is not killed hard."""
    service = unit("aruntime-shim.service")
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "aruntime-shim"
    run_dir, stay, sealed = boot.parse(words)
    assert (run_dir, stay, sealed) == (parse(DAEMON, [])["run-dir"], True, False)
    assert service["SendSIGKILL"] == "no"
