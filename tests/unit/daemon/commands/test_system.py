"""How `version` and `info` are shown."""

from __future__ import annotations

import json
import platform

import pytest

from aruntime.daemon.commands import system
from aruntime.errors import UsageError

FIELDS = {"Name": "host", "List": ["a", "b"], "Empty": [], "Inner": {"Disk": "throttle"}, "N": 2}


def test_text_has_a_line_per_field() -> None:
    """Lists are joined, nested fields indented, nothing has trailing blanks."""
    assert system.formatted(FIELDS, "") == (
        "Name: host\nList: a, b\nEmpty:\nInner:\n Disk: throttle\nN: 2\n"
    )


def test_json_is_one_line() -> None:
    """`--format json` is for machines."""
    shown = system.formatted(FIELDS, "json")
    assert shown.count("\n") == 1
    assert json.loads(shown) == FIELDS


def test_templates_reach_nested_fields() -> None:
    """Docker's way to ask for one value, escapes included."""
    assert system.formatted(FIELDS, r"{{.Name}}\t{{.Inner.Disk}}") == "host\tthrottle\n"
    with pytest.raises(UsageError):
        system.formatted(FIELDS, "{{.Nome}}")


def test_names_of_this_host() -> None:
    """The architecture as docker spells it, and a name for the operating system."""
    assert system.architecture() in {"amd64", "arm64", platform.machine()}
    assert system.operating_system()
    assert '"' not in system.operating_system()
