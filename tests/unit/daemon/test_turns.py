"""The lock of a container: one at a time, in order, whoever gives up."""

from __future__ import annotations

import trio
import trio.testing

from aruntime.daemon.turns import Turns


async def test_one_at_a_time_in_order() -> None:
    """Who comes first goes first, and nobody beside another."""
    turns, inside, order = Turns(), 0, list[int]()

    async def enter(number: int) -> None:
        nonlocal inside
        async with turns:
            inside += 1
            assert inside == 1
            order.append(number)
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(enter, number)
            await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(5))


async def test_who_gives_up_is_passed_over() -> None:
    """A cancelled waiter leaves the queue; the next one is let in."""
    turns, entered = Turns(), trio.Event()

    async def give_up() -> None:
        with trio.move_on_after(0):
            async with turns:
                raise AssertionError("it was not free")

    async def enter() -> None:
        async with turns:
            entered.set()

    async with trio.open_nursery() as nursery:
        async with turns:
            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(enter)
            await trio.testing.wait_all_tasks_blocked()
            assert not entered.is_set()
        await entered.wait()


async def test_free_again_after_an_error() -> None:
    """An exception inside lets the next one in."""
    turns = Turns()
    for _ in range(2):
        try:
            async with turns:
                raise ValueError
        except ValueError:
            pass
