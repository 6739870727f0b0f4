"""Which layer of an image is unpacked next."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from aruntime.daemon.unpackings import Unpackings

LAYERS = 6


class Layers:
    """Layers that come in some order; each depends on all below it, as the worst do."""

    def __init__(self, unpackings: Unpackings) -> None:
        self.unpackings = unpackings
        self.done = [trio.Event() for _ in range(LAYERS)]
        self.running: set[int] = set()
        self.most = 0

    async def unpack(self, number: int) -> None:
        """Unpack one, as a pull does."""
        below: Sequence[trio.Event] = self.done[:number]
        async with self.unpackings.turn(below):
            self.running.add(number)
            self.most = max(self.most, len(self.running))
            for event in below:
                await event.wait()
            self.running.discard(number)
        self.done[number].set()
        await self.unpackings.advance()


async def test_nobody_waits_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    """Turns taken by layers that wait for those below do not keep the lowest from going on."""
    layers = Layers(Unpackings(2))
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            for number in reversed(range(LAYERS)):
                nursery.start_soon(layers.unpack, number)
                await trio.testing.wait_all_tasks_blocked()
    assert all(event.is_set() for event in layers.done)
    assert layers.most == 3  # the turns, and the lowest


async def test_turns_are_kept(autojump_clock: trio.testing.MockClock) -> None:
    """Layers that depend on nothing are unpacked so many at a time, not in their order."""
    unpackings = Unpackings(2)
    done = [trio.Event() for _ in range(LAYERS)]
    running, most, order = 0, 0, []

    async def unpack(number: int) -> None:
        nonlocal running, most
        async with unpackings.turn(done[:number]):
            running += 1
            most = max(most, running)
            await trio.sleep(100 if not number else 1)
            running -= 1
        order.append(number)
        done[number].set()
        await unpackings.advance()

    async with trio.open_nursery() as nursery:
        for number in range(LAYERS):
            nursery.start_soon(unpack, number)
            await trio.testing.wait_all_tasks_blocked()

    assert most == 2
    assert sorted(order[:-1]) == [1, 2, 3, 4, 5]
    assert order[-1] == 0
