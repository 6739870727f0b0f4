"""docs/security.md: the tests it names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    """A file, or a test of the file named last before it."""
    source = ""
    named = 0
    for quoted in re.findall(r"`([^`]+)`", PAGE):
        file, _, test = quoted.partition("::")
        if file.startswith("tests/"):
            found = list(ROOT.glob(f"{file}*"))
            assert found, quoted
            assert not test or f"def {test}(" in found[0].read_text(), quoted
            continue
        if file.startswith("test_"):
            found = list((ROOT / "tests").glob(f"*/{file}"))
            assert found, quoted
            source = "".join(path.read_text() for path in found)
        if test:
            named += 1
            assert f"def {test}(" in source, quoted
    assert named > 30
