"""The plain script that the wheel installs as `aruntime`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from aruntime import __version__

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "aruntime" / "cli" / "aruntime"


def test_first_line_is_what_installers_rewrite() -> None:
    """`#!python` is replaced by the environment's interpreter (binary distribution format)."""
    assert SCRIPT.read_text().splitlines()[0] == "#!python"
    assert SCRIPT.stat().st_mode & 0o111 == 0o111


def test_wheel_ships_it_as_a_script() -> None:
    """It is a shared script; a generated entry point of the same name would shadow it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    scripts = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"]
    assert scripts == {"aruntime/cli/aruntime": "aruntime"}
    assert "aruntime" not in project["project"]["scripts"]


def test_version_is_the_projects() -> None:
    """Client and daemon compare __version__ at hello; the wheel must carry the same number."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__


def test_installed_command_is_the_script() -> None:
    """What is beside the interpreter of these tests differs in its first line only."""
    installed = Path(sys.executable).parent / "aruntime"
    if not installed.exists():
        pytest.skip("aruntime is not installed in this environment: pip install -e .")
    first, *rest = installed.read_text().splitlines()
    assert rest == SCRIPT.read_text().splitlines()[1:]
    assert first.startswith("#!/")
