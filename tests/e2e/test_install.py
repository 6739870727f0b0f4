"""deploy/install.sh into a directory, and the manifests that name our flags."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aruntime import __version__
from aruntime.daemon import settings
from aruntime.daemon.commands.flags import parse
from aruntime.daemon.commands.system import DAEMON
from tests.conftest import require_program

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "deploy"


def install(destination: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with everything going below a directory."""
    environment = os.environ | {"DESTDIR": str(destination), "PIP_ARGUMENTS": "--no-deps"}
    return subprocess.run(
        ["sh", DEPLOY / "install.sh", *arguments],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_install_upgrade_uninstall(tmp_path: Path) -> None:
    """Commands, units and a first configuration are there; again changes nothing of the user's."""
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    client = tmp_path / "usr/local/bin/aruntime"
    shown = subprocess.run([client, "--version"], capture_output=True, text=True, cwd="/")
    assert shown.stdout == f"aruntime version {__version__}\n"
    assert str(tmp_path / "opt/aruntime") in client.read_text()
    configuration = tmp_path / "etc/aruntime/config.toml"
    assert settings.read_config(configuration)["socket-group"] == "aruntime"
    assert (tmp_path / "etc/aruntime/web-config.yml").stat().st_mode & 0o777 == 0o640
    units = sorted(path.name for path in (tmp_path / "etc/systemd/system").iterdir())
    assert units == ["aruntime-shim.service", "aruntime.slice", "aruntimed.service"]

    configuration.write_text('log-level = "debug"\n')
    assert install(tmp_path).returncode == 0
    assert configuration.read_text() == 'log-level = "debug"\n'

    (tmp_path / "var/lib/aruntime").mkdir(parents=True)
    assert install(tmp_path, "--uninstall").returncode == 0
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["etc/aruntime/config.toml", "etc/aruntime/web-config.yml"]
    assert (tmp_path / "var/lib/aruntime").is_dir()


def test_unknown_option(tmp_path: Path) -> None:
    """A word that means nothing is said to, and nothing is made."""
    done = install(tmp_path, "--remove")
    assert done.returncode == 1
    assert done.stderr == (
        "install.sh: there is no option --remove; see the first lines of this script\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_units_are_units(tmp_path: Path) -> None:
    """systemd has no complaint about them but that their programs are not installed here."""
    for unit in DEPLOY.glob("aruntime*.s*"):
        if unit.suffix in (".service", ".slice"):
            (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/aruntime/bin", "/bin"))
    checked = subprocess.run(
        [require_program("systemd-analyze"), "verify", *sorted(tmp_path.iterdir())],
        capture_output=True, text=True, env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [
        line
        for line in checked.stderr.splitlines()
        if "aruntime" in line and "is not executable" not in line
    ]
    assert complaints == []


def flags_of(service: dict[str, Any]) -> list[str]:
    """The daemon's flags in a stack's script, with the defaults of the stack's environment."""
    text = service["command"][-1].replace("\\\n", " ")
    for name, value in service["environment"].items():
        text = text.replace(f"$${name}", re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", value))
    words = shlex.split(text, comments=True)
    start = words.index("--metrics-address")
    return words[start : words.index(">/dev/null", start)]


def test_manifests_name_flags_that_there_are(tmp_path: Path) -> None:
    """The arguments in the Kubernetes and Swarm manifests are taken by aruntimed."""
    documents: list[dict[str, Any]] = list(
        yaml.safe_load_all((DEPLOY / "kubernetes/daemonset.yml").read_text())
    )
    assert [one["kind"] for one in documents] == ["Namespace", "DaemonSet"]
    pod = documents[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}
    stack = yaml.safe_load((DEPLOY / "swarm/aruntime.yml").read_text())
    config = tmp_path / "none.toml"
    config.touch()
    for words in (container["args"], flags_of(stack["services"]["meter"])):
        chosen = settings.load(parse(DAEMON, [*words, f"--config={config}"]), {})
        assert chosen.meter_cgroups
        assert chosen.metrics_address == "0.0.0.0:9640"
        assert chosen.web_config == Path("/etc/web/web-config.yml")


def test_containerfile_installs_what_is_needed() -> None:
    """The image has the packages that the install script asks for."""
    wanted = re.search(r"for package in (.*); do", (DEPLOY / "install.sh").read_text())
    assert wanted is not None
    assert set(wanted[1].split()) <= set((DEPLOY / "Containerfile").read_text().split())
