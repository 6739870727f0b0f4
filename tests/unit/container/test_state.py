"""The container's states: the moves that exist, those that do not, and the record."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from aruntime.container import state
from aruntime.container.state import ContainerState, Status
from aruntime.errors import InvalidTransition

PATHS = [
    "created running exited running",
    "created exited",
    "created running pausing paused running exited",
    "created running pausing running",
    "created running pausing paused exited",
    "created running pausing exited",
    "created running restarting running exited restarting exited dead",
    "created running running",
]


@pytest.mark.parametrize("path", PATHS)
def test_lives_that_happen_are_allowed(path: str) -> None:
    """Every life a container can have is a walk through the table."""
    record = ContainerState()
    for name in path.split():
        state.move(record, Status(name))
    assert record.status.value == path.split()[-1]


@pytest.mark.parametrize(
    ("start", "to"),
    [
        (Status.CREATED, Status.PAUSED),
        (Status.EXITED, Status.PAUSING),
        (Status.EXITED, Status.CREATED),
        (Status.RUNNING, Status.PAUSED),
        (Status.RUNNING, Status.CREATED),
        (Status.DEAD, Status.RUNNING),
        (Status.PAUSED, Status.PAUSING),
    ],
)
def test_wrong_move_names_both_states(start: Status, to: Status) -> None:
    """A move that is not in the table raises and changes nothing."""
    record = ContainerState(status=start)
    with pytest.raises(InvalidTransition, match=f"{start.value} cannot become {to.value}"):
        state.move(record, to)
    assert record.status is start


def test_table_names_every_state() -> None:
    """Nobody can add a state and forget its row."""
    assert set(state.TRANSITIONS) == set(Status) == set(state.OCI_STATUS)


def test_every_state_can_be_reached() -> None:
    """The table has no state that is a row only."""
    reachable = set(itertools.chain.from_iterable(state.TRANSITIONS.values()))
    assert reachable == set(Status) - {Status.CREATED}


def test_dead_is_final() -> None:
    """What is half removed can only be removed."""
    assert not state.TRANSITIONS[Status.DEAD]


def test_active_is_what_has_a_process() -> None:
    """Restarting has none: it waits for its back-off."""
    assert ContainerState(status=Status.PAUSED).is_active
    assert not ContainerState(status=Status.RESTARTING).is_active


def test_record_survives_json() -> None:
    """An unknown exit code stays unknown, it does not become 0."""
    record = ContainerState(status=Status.EXITED, pid=0, exit_code=None, error="unknown")
    again = msgspec.json.decode(msgspec.json.encode(record), type=ContainerState)
    assert again == record
    assert again.exit_code is None
