"""The manifests of deploy/: whole, of known fields only, alike in what they let the meter do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SWARM = DEPLOY / "swarm/aruntime.yml"
DAEMON_SET = list(yaml.safe_load_all((DEPLOY / "kubernetes/daemonset.yml").read_text()))
PAGES = [SWARM.read_text(), (DEPLOY / "README.md").read_text()]
VERSIONS = ("1.30", kubernetes_validate.latest_version())
"""The oldest that the manifest says it is for, and the newest there is a schema of."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DAEMON_SET, ids=lambda one: one["kind"])
def test_kubernetes_knows_every_field(document: dict[str, Any], version: str) -> None:
    """Each document is what the API's schema says, strictly: nothing is misspelt or misplaced."""
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_is_found() -> None:
    """The check can fail: a field that nobody knows, a word for a number."""
    for key, value in (("hostPid", True), ("terminationGracePeriodSeconds", "sixty")):
        wrong = yaml.safe_load(yaml.safe_dump(DAEMON_SET[1]))
        wrong["spec"]["template"]["spec"][key] = value
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, "1.30", strict=True)


def the_container() -> dict[str, Any]:
    """The DaemonSet's only container."""
    (container,) = DAEMON_SET[1]["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def test_volumes_are_there() -> None:
    """Every mount has its volume, every volume is mounted, the selector finds its pods."""
    spec = DAEMON_SET[1]["spec"]
    mounts = {one["name"] for one in the_container()["volumeMounts"]}
    assert mounts == {one["name"] for one in spec["template"]["spec"]["volumes"]}
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def test_the_meter_has_the_same_rights_everywhere() -> None:
    """Not privileged, and as few capabilities under Swarm and plain docker as in Kubernetes."""
    security = the_container()["securityContext"]
    assert "privileged" not in security
    assert security["capabilities"]["drop"] == ["ALL"]
    wanted = security["capabilities"]["add"]
    for text in PAGES:
        assert "--privileged" not in text
        assert "--cap-drop ALL" in text
        assert re.findall(r"--cap-add (\w+)", text) == wanted


def test_addresses_that_others_reach_ask_for_a_password() -> None:
    """Both manifests listen for others, and both give the users and the key to do so."""
    assert "--web.config.file=/etc/web/web-config.yml" in the_container()["args"]
    stack = yaml.safe_load(SWARM.read_text())
    names = {one["name"] for one in stack["secrets"].values()}
    used = {one["source"] for one in stack["services"]["meter"]["secrets"]}
    assert used == set(stack["secrets"])
    for name in names:
        assert all(f"docker secret create {name} " in page for page in PAGES)


def test_the_stacks_variables_are_explained() -> None:
    """What is taken from the environment is what its first lines name, each with a default."""
    text = SWARM.read_text()
    comment = "".join(line for line in text.splitlines() if line.startswith("#"))
    taken = re.findall(r"\$\{(\w+)(:-[^}]+)?\}", text)
    assert all(default for _, default in taken)
    assert {name for name, _ in taken} == set(re.findall(r"\b(?:ARUNTIME|DOCKER)_\w+", comment))


def test_only_the_package_goes_into_the_image() -> None:
    """The build's context is a list of what goes in, and every part of it is there."""
    lines = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    words = [line for line in lines if line and not line.startswith("#")]
    assert words[0] == "*"
    kept = {word[1:] for word in words if word.startswith("!")}
    assert kept == {"aruntime", "exporters", "pyproject.toml", "README.md"}
    assert all((DEPLOY.parent / name).exists() for name in kept)
