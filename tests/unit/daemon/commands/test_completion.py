"""Completion scripts under real shells, without a daemon: commands, flags, fixed values."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from aruntime.container.config import ContainerConfig
from aruntime.container.state import ContainerState, Status
from aruntime.daemon.commands.completion import container_names, image_names, script
from aruntime.daemon.commands.flags import Command, Flag, Parsed
from aruntime.daemon.commands.registry import Registry, registry
from aruntime.daemon.commands.run_flags import RUN_FLAGS
from aruntime.daemon.record import Container
from aruntime.errors import InvalidParameter
from tests.conftest import require_program


async def _run(_session: Any, _parsed: Parsed, _daemon: Any) -> int:
    return 0


TABLE = registry(
    [
        Command("run", "Run: 'it' [now]", _run, flags=RUN_FLAGS, minimum=1, interspersed=False,
                completes="images"),
        Command("ps", "List", _run, maximum=0, aliases=("container ls",),
                flags=(Flag("all", "a", "bool"), Flag("format"), Flag("last", "n", "int"))),
        Command("load", "Load", _run, flags=(Flag("input", "i"),), maximum=0),
        Command("rm", "Remove", _run, flags=(Flag("force", "f", "bool"),), completes="containers"),
        Command("network ls", "List networks", _run, maximum=0),
        Command("network rm", "Remove networks", _run),
        Command("completion", "Script", _run, maximum=1, completes="shells"),
        Command("__complete", "Hidden", _run, hidden=True),
    ]
)  # fmt: skip

ASK = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_aruntime
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    file = tmp_path_factory.mktemp("completion") / "aruntime.bash"
    file.write_text(script("bash", TABLE))
    return file


def complete(file: Path, line: str, cwd: Path | None = None) -> list[str]:
    """What bash offers at the end of a line."""
    done = subprocess.run(
        [require_program("bash"), "--norc", "-c", ASK, "bash", str(file), line],
        capture_output=True, text=True, check=True, cwd=cwd, timeout=30,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("aruntime r", ["rm", "run"]),
        ("aruntime __", []),
        ("aruntime net", ["network"]),
        ("aruntime network ", ["ls", "rm"]),
        ("aruntime container l", ["ls"]),
        ("aruntime container ls --f", ["--format"]),
        ("aruntime --deb", ["--debug"]),
        ("aruntime --debug -H unix:///x p", ["ps"]),
        ("aruntime -H p", []),
        ("aruntime ps --f", ["--format"]),
        ("aruntime ps --format ", ["json", "table"]),
        ("aruntime ps --format=j", ["json"]),
        ("aruntime ps -an 3 --a", ["--all"]),
        ("aruntime ps x --a", ["--all"]),
        ("aruntime run --netw", ["--network", "--network-alias", "--network-rate"]),
        ("aruntime run --network b", ["bridge"]),
        ("aruntime run --net h", ["host"]),
        ("aruntime run --network=con", ["container:"]),
        ("aruntime run --restart un", ["unless-stopped"]),
        ("aruntime run -itd --pull ne", ["never"]),
        ("aruntime run --cap-add NET_A", ["NET_ADMIN"]),
        ("aruntime run --stop-signal US", ["USR1", "USR2"]),
        ("aruntime run -m 5m --rm --read", ["--read-only"]),
        ("aruntime run -m 5m image --read", []),
        ("aruntime run -e A=1 -ec --cgroupns=h", ["host"]),
        ("aruntime run --gpu", []),
        ("aruntime rm -- --f", []),
        ("aruntime completion ", ["bash", "zsh"]),
        ("aruntime completion bash ", []),
        ("aruntime nonsense ", []),
    ],
)
def test_bash_offers(bash_file: Path, line: str, words: list[str]) -> None:
    """By the tables of commands."""
    assert complete(bash_file, line) == words


def test_bash_offers_files(bash_file: Path, tmp_path: Path) -> None:
    """Where a flag takes a file or directory, also joined by an equals sign."""
    (tmp_path / "image.tar").write_text("")
    assert complete(bash_file, "aruntime load -i im", tmp_path) == ["image.tar"]
    assert complete(bash_file, "aruntime load --input=im", tmp_path) == ["image.tar"]
    assert complete(bash_file, "aruntime run --env-file ", tmp_path) == ["image.tar"]


def test_zsh_accepts_the_script(tmp_path: Path) -> None:
    """It parses, and defines the completion of aruntime."""
    file = tmp_path / "_aruntime"
    file.write_text(script("zsh", TABLE))
    ask = "autoload -U compinit; compinit -u -D; source $1; print ${_comps[aruntime]}"
    done = subprocess.run(
        [require_program("zsh"), "-f", "-c", ask, "zsh", str(file)],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("_aruntime\n", "")


def test_no_script_for_other_shells() -> None:
    """fish and friends."""
    with pytest.raises(InvalidParameter, match="no completion for 'fish'; use bash or zsh"):
        script("fish", TABLE)


def container(name: str, digit: str, status: Status) -> Container:
    """A container in a state."""
    config = ContainerConfig(
        id=digit * 64, name=name, created_ns=0, image="i", image_id="i", args=["x"], hostname="h"
    )
    return Container(config, ContainerState(status=status), "/nowhere")


def test_names_of_containers_by_state() -> None:
    """Ids only for who types one."""
    held = [
        container("web", "a", Status.RUNNING),
        container("db", "b", Status.PAUSED),
        container("job", "c", Status.EXITED),
        container("new", "d", Status.CREATED),
    ]
    assert container_names(held, "containers", "") == ["db", "job", "new", "web"]
    assert container_names(held, "running", "") == ["web"]
    assert container_names(held, "paused", "") == ["db"]
    assert container_names(held, "stopped", "") == ["job", "new"]
    assert container_names(held, "containers", "aa") == ["a" * 12, "b" * 12, "c" * 12, "d" * 12]
    assert container_names(held, "running", "a" * 13) == ["a" * 64]
    assert container_names(held, "containers", "w") == ["db", "job", "new", "web"]


def test_names_of_images_are_the_familiar_ones() -> None:
    """With and without the tag that everybody leaves out."""
    assert image_names(["docker.io/library/app:latest", "example.org/x/y:1"]) == [
        "app", "app:latest", "example.org/x/y:1",
    ]  # fmt: skip


def test_the_program_s_own_tables_make_scripts(tmp_path: Path) -> None:
    """Every command of the program is in both scripts; bash reads its one."""
    from aruntime.daemon.dispatch import load_registry

    known: Registry = load_registry()
    file = tmp_path / "aruntime.bash"
    file.write_text(script("bash", known))
    shown = {name for c in known if not c.hidden for name in c.names if " " not in name}
    assert set(complete(file, "aruntime ")) == shown | set(known.groups())
    assert {"ls", "history", "rm", "save"} <= set(complete(file, "aruntime image "))
    for name in shown:
        assert f"'{name}:" in script("zsh", known)
