"""The commands as `python -m aruntime.cli.link` puts them into a directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aruntime import __version__
from aruntime.cli import link

HEAVY = frozenset({"site", "re", "socket", "json", "argparse", "typing", "subprocess"})
REPORT = "import sys, os; os.write(1, ' '.join(sys.modules).encode())\n"


def run(*command: str | Path) -> str:
    """Run a command; return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def test_linked_client_works(tmp_path: Path) -> None:
    """It answers, and finds what is beside the package when it needs that (help, the daemon)."""
    link.link(tmp_path)
    client = tmp_path / "aruntime"
    assert run(client, "--version") == f"aruntime version {__version__}\n"
    nowhere = f"--host=unix://{tmp_path}/none.sock"
    assert run(client, nowhere, "--help").startswith("Usage:")
    assert "--root" in run(client, "daemon", "--help")
    assert sorted(os.listdir(tmp_path)) == ["aruntime", "aruntimed"]
    assert os.readlink(tmp_path / "aruntimed") == str(Path(sys.executable).with_name("aruntimed"))


def test_linked_client_imports_little(tmp_path: Path) -> None:
    """Neither site nor anything heavy is there when it has its first connection to make."""
    text = link.script(sys.executable, str(Path(link.__file__).parents[2]))
    probe = tmp_path / "probe"
    probe.write_text(text.replace("\nmain()\n", f"\n{REPORT}"))
    probe.chmod(0o755)
    found = set(run(probe).split())
    assert "aruntime.cli.client" in found
    assert not found & HEAVY


def test_link_replaces_what_was_there(tmp_path: Path) -> None:
    """A link of an earlier installation goes; linking again changes nothing."""
    (tmp_path / "aruntime").symlink_to("/nowhere/aruntime")
    (tmp_path / "aruntimed").symlink_to("/nowhere/aruntimed")
    link.link(tmp_path)
    first = (tmp_path / "aruntime").read_text()
    link.link(tmp_path)
    assert (tmp_path / "aruntime").read_text() == first
    assert not (tmp_path / "aruntime").is_symlink()


def test_checkout_one_stands_in_is_not_linked(tmp_path: Path) -> None:
    """The script names the installed package, although another lies in the working directory."""
    other = tmp_path / "checkout"
    for package in ("aruntime", "aruntime/cli"):
        (other / package).mkdir(parents=True)
        (other / package / "__init__.py").touch()
    (other / "aruntime/cli/link.py").write_text(Path(link.__file__).read_text())
    subprocess.run(
        [sys.executable, "-m", "aruntime.cli.link", str(tmp_path)], cwd=other, check=True
    )
    assert str(other) not in (tmp_path / "aruntime").read_text()
    assert run(tmp_path / "aruntime", "--version") == f"aruntime version {__version__}\n"


@pytest.mark.parametrize("interpreter", ["/opt/my python/bin/python", "/" + "x" * 255])
def test_interpreter_that_no_script_can_name(interpreter: str) -> None:
    """The kernel would take another program, or none."""
    with pytest.raises(ValueError, match="install into another directory"):
        link.script(interpreter, "/opt")


def test_directory_that_is_missing(tmp_path: Path) -> None:
    """One line, exit code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "aruntime.cli.link", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("aruntime: cannot link the commands: ")
