"""Trees of counter files as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.metering import CounterTree


@pytest.fixture(name="counters")
def _counters(tmp_path: Path) -> CounterTree:
    """A tree of counters, empty."""
    return CounterTree(tmp_path / "cgroup")


@pytest.fixture(name="new_counters", scope="session")
def _new_counters(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], CounterTree]:
    """Makes one tree after another, for tests that run many examples."""
    return lambda: CounterTree(tmp_path_factory.mktemp("counters") / "cgroup")
