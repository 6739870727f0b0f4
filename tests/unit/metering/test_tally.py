"""Quick readings added up: the same account as reading by reading, to the last unit."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups.driver import Driver
from aruntime.cgroups.stats import FastStats
from aruntime.metering.account import Account, Request, Span, Totals
from aruntime.metering.clock import WallClock
from aruntime.metering.cutting import NEVER, Cutter
from aruntime.metering.health import Health
from aruntime.metering.integrals import advance, begin
from aruntime.metering.readers import Access
from aruntime.metering.reading import from_fast
from aruntime.metering.subject import MeterSubject, Subject
from aruntime.metering.tally import Tally, is_plain
from aruntime.metering.terms import terms_of
from tests.metering import CounterTree

SECOND = 1_000_000_000
STATUSES = ("created", "running", "pausing", "paused")


class Step(NamedTuple):
    """One quick reading, against the one before it."""

    passed_ns: int
    cpu_ns: int
    usage: int
    inactive: int


steps = st.lists(
    st.builds(
        Step,
        # Not always forward: a reading is stamped with its middle, a state with its instant.
        st.integers(-1000, 3 * SECOND),
        # Falling, standing still, plausible, and more than two cores can have spent.
        st.sampled_from([-5, 0, 0, 1, SECOND // 3]) | st.integers(0, 20 * SECOND),
        st.integers(0, 1 << 40),
        st.integers(0, 1 << 40),
    ),
    max_size=30,
)
requests = st.builds(Request, st.sampled_from([0, 1, 333, 2500]), st.integers(0, 1 << 36))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """As an earlier reading or a change of state left them."""
    number = partial(draw, st.integers(0, 1 << 50))
    sampled = draw(st.integers(0, 10 * SECOND))
    return Account(
        incarnation="boot:1",
        status=draw(st.sampled_from(STATUSES)),
        time_ns=sampled + draw(st.integers(0, SECOND)),
        sample_ns=sampled,
        sample_bytes=number(),
        sample_usage=number(),
        cpu_at_ns=draw(st.sampled_from([0, sampled])),
        cpu_raw=number(),
        memory_peak=number(),
        requested_ns=draw(st.integers(0, 1000)),
        totals=Totals(cpu_ns=number(), running_ns=1000 + number(), paused_ns=number()),
        span=Span(samples=3, max_gap_ns=draw(st.integers(0, 2 * SECOND)), usage_peak=number()),
    )


@given(account=accounts(), request=requests, given_steps=steps, settle_after=st.integers(1, 12))
def test_the_same_as_one_by_one(
    account: Account, request: Request, given_steps: list[Step], settle_after: int
) -> None:
    """Whatever is read, and whenever the account is asked for: every field is equal."""
    slowly = quickly = account
    tally: Tally | None = None
    at_ns, cpu = account.time_ns, account.cpu_raw
    for number, step in enumerate(given_steps, 1):
        at_ns, cpu = max(0, at_ns + step.passed_ns), max(0, cpu + step.cpu_ns)
        fast = FastStats(cpu, step.usage, step.inactive)
        slowly = advance(slowly, from_fast(fast, at_ns), cores=2, request=request).account
        if tally is None and is_plain(quickly):
            tally = Tally(quickly, cores=2, request=request)
        if tally is None or not tally.take(at_ns, fast, until_ns=NEVER):
            quickly = tally.settle() if tally is not None else quickly
            quickly = advance(quickly, from_fast(fast, at_ns), cores=2, request=request).account
            tally = None
        if tally is not None and not number % settle_after:
            quickly, tally = tally.settle(), None
            assert quickly == slowly

    assert (tally.settle() if tally is not None else quickly) == slowly


@pytest.mark.parametrize(
    ("fast", "until_ns"),
    [
        (FastStats(99, 5, 0), NEVER),  # the counter fell
        (FastStats(100 + 10 * SECOND, 5, 0), NEVER),  # more than a core can have spent
        (FastStats(101, 5, 0), 2 * SECOND),  # the hour is over
    ],
)
def test_what_needs_more_than_addition_is_left_alone(fast: FastStats, until_ns: int) -> None:
    """A refused reading has changed nothing."""
    account = Account(
        status="running", time_ns=SECOND, sample_ns=SECOND, cpu_at_ns=SECOND, cpu_raw=100
    )
    tally = Tally(account, cores=1, request=Request())
    assert tally.take(SECOND + 10, FastStats(100, 7, 0), until_ns=NEVER)
    assert not tally.take(2 * SECOND, fast, until_ns=until_ns)
    settled = tally.settle()

    assert (settled.span.samples, settled.cpu_raw, settled.time_ns) == (1, 100, SECOND + 10)
    assert settled.totals.memory_bytens2 == 7 * 10


def test_accounts_that_cannot_be_added_to() -> None:
    """Nothing to integrate from, a held difference, an ended life."""
    plain = Account(status="running", time_ns=5, sample_ns=5)

    assert is_plain(plain)
    for change in ({"sample_ns": 0}, {"sample_ns": 6}, {"cpu_held": True}, {"status": "exited"}):
        assert not is_plain(msgspec.structs.replace(plain, **change))


@pytest.mark.parametrize("slow", [False, True], ids=["added up", "one by one"])
def test_subject_sees_its_quick_readings_whoever_asks(counters: CounterTree, slow: bool) -> None:
    """Records, changes of state and the end are of all that was read before them."""
    cgroup = counters.add("a")
    about = MeterSubject(id="a", name="a", cgroup=cgroup)
    cuts = Cutter("a", terms_of(about), WallClock.now().at)
    driver: Driver = counters.driver
    access = Access(partial(driver.open_reader, cgroup), is_kept=True)
    account = begin(None, "boot:1", SECOND, is_new=True)
    known = Subject(about, account, access, cuts=cuts, health=Health(), cores=1000)
    now = [SECOND]

    def read(cpu_ns: int, *, slow: bool = slow) -> None:
        now[0] += SECOND
        counters.use("a", cpu_ns=cpu_ns)
        assert known.sample(slow=slow, clock=lambda: now[0])

    known.begin()
    known.change("running", SECOND)
    read(1, slow=True)
    read(2)
    read(4)
    known.cut()
    read(8)
    known.change("paused", now[0])
    read(0)  # the cut at the freeze needs this one: it is not added up
    read(0)
    known.change("running", now[0])
    read(16)
    known.finish(process=None, clock=lambda: now[0])
    known.end("exit", 0)
    ended, _, drafts = known.hand_over()
    known.release()
    records = [draft.record for draft in drafts]

    assert [(one.kind, one.state, one.cpu_ns, one.samples) for one in records] == [
        ("start", "running", 0, 0),
        ("usage", "running", 7, 3),
        ("usage", "running", 8, 2),  # with the one that saw the freeze
        ("usage", "paused", 0, 2),
        ("final", "running", 16, 2),
    ]
    assert (ended.totals.cpu_ns, ended.totals.running_ns) == (31, 5 * SECOND)
    assert ended.totals.paused_ns == 2 * SECOND
