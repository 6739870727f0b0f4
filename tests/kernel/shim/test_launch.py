"""Containers launched through a real shim: what runs, as what, and how it ends."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel


def test_hello(shim) -> None:
    """x."""
    code, out, err = shim.run("c1", ["sh", "-c", "echo hello; id; cat /proc/self/status; echo err >&2; exit 3"])
    print(code, out, err)
    assert 0
