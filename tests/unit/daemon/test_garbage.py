"""Full rounds of the collector: what they set aside, and that nothing is set aside for good."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from aruntime.daemon import garbage
from aruntime.daemon.garbage import ShortRounds


class Node:
    """May refer to itself, so that only the collector can free it."""

    itself: Node


@pytest.fixture
def rounds() -> Iterator[ShortRounds]:
    """As in the daemon; undone at the end."""
    short = ShortRounds()
    short.begin()
    yield short
    short.end()


@pytest.mark.usefixtures("rounds")
def test_a_full_round_looks_at_what_is_new_only() -> None:
    """What a round found in use is not in any generation that the next one goes through."""
    kept = [Node() for _ in range(1000)]
    before = gc.get_freeze_count()
    gc.collect()

    assert gc.get_freeze_count() >= before + len(kept)
    assert not any(isinstance(found, Node) for found in gc.get_objects())


@pytest.mark.usefixtures("rounds")
def test_new_cycles_are_freed_at_once() -> None:
    """Setting aside comes after freeing."""
    node = Node()
    node.itself = node
    gone = weakref.ref(node)
    del node
    gc.collect()

    assert gone() is None


@pytest.mark.usefixtures("rounds")
def test_a_cycle_that_was_set_aside_is_freed_when_much_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits until what is set aside has grown, no longer."""
    node = Node()
    node.itself = node
    gone = weakref.ref(node)
    gc.collect()
    del node
    gc.collect()
    assert gone() is not None

    monkeypatch.setattr(garbage, "GROWTH", 1.0)
    monkeypatch.setattr(garbage, "SPARE", 500)
    more = [Node() for _ in range(1000)]
    gc.collect()  # sees that much is set aside
    gc.collect()  # is the one that looks through it

    assert gone() is None
    assert len(more) == 1000


def test_the_collector_is_left_as_it_was_found(rounds: ShortRounds) -> None:
    """Nothing is called, and nothing set aside, after the end."""
    rounds.end()
    callbacks = len(gc.callbacks)
    gc.collect()

    assert gc.get_freeze_count() == 0
    rounds.begin()
    assert len(gc.callbacks) == callbacks + 1
