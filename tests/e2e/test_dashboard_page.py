"""aruntime dashboard: the page of real usage, from a real daemon."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e


def test_page_has_the_numbers_of_usage(daemon: RunningDaemon, tmp_path: Path) -> None:
    """The page's rows are those of usage; without a book it says so, with one it has costs."""
    daemon.run("run", "--rm", "--tenant", "acme", "--name", "job", "-m", "64m", "busybox", "true")
    plain = tmp_path / "plain.html"
    daemon.run("dashboard", "-o", str(plain))
    assert "No prices are in force" in plain.read_text()

    book = daemon.run("price", "show", "fargate").stdout
    daemon.run("price", "load", "-", stdin=book.encode())
    page = daemon.run("dashboard").stdout
    (used,) = (json.loads(line) for line in usage_lines(daemon))
    body = html.unescape(page[page.index("</head>") :])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", body)
    assert {"acme", "job", used["CPUUsed"], used["ID"][:12]} <= set(cells)
    assert "provisional" in body


def usage_lines(daemon: RunningDaemon) -> list[str]:
    """The rows of usage as JSON."""
    return daemon.run("usage", "--format", "json").stdout.splitlines()


def test_months_that_are_none(daemon: RunningDaemon) -> None:
    """A month that is none, or has not begun, is one line; so is a missing directory."""
    for words, said in [
        (("--period", "2026-13"), "invalid period '2026-13'"),
        (("--period", "2999-01"), "2999-01 has not begun"),
        (("-o", "/nowhere/page.html"), "/nowhere/page.html"),
    ]:
        done = daemon.run("dashboard", *words, code=125)
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
