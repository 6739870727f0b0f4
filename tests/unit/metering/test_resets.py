"""Counters that were zeroed: whichever it was, what came after counts, and it is flagged once."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from aruntime.metering.account import COUNTERS, Account, Reading
from aruntime.metering.chain import HOUR_NS, SUMMED, sums_of
from aruntime.metering.cutting import Cutter
from aruntime.metering.integrals import advance, begin, transition
from aruntime.metering.intervals import Terms
from tests.metering import CORES, START

KINDS = ("cpu", "counters", "block", "network")
MOST = 1 << 40
"""What a counter grows by at most in a step: less than all cores can do in an hour."""


class Step(NamedTuple):
    """An hour: which counters somebody zeroed at its beginning, what each grew by since."""

    zeroed: frozenset[str]
    growth: dict[str, int]


lives = st.lists(
    st.builds(
        Step,
        st.frozensets(st.sampled_from(KINDS)),
        st.fixed_dictionaries(dict.fromkeys(KINDS, st.integers(0, MOST))),
    ),
    min_size=1,
    max_size=10,
)


def reading(boot_ns: int, raw: dict[str, int]) -> Reading:
    """What is read; two counters of each kind, one of which nobody resets."""
    hits = tuple(raw["counters"] if name == "page_faults" else 7 for name in COUNTERS)
    block = {"vda": (raw["block"], 7, 0, 0, 0), "vdb": (7, 0, 0, 0, 0)}
    network = {"eth0": (7, raw["network"], 0, 0, 0, 0, 0, 0)}
    return Reading(boot_ns, raw["cpu"], 4096, hits, block, network)


def totals(account: Account) -> dict[str, int]:
    """What was counted of each kind."""
    found = account.totals
    return {
        "cpu": found.cpu_ns,
        "counters": found.counters[COUNTERS.index("page_faults")],
        "block": found.block["vda"][0],
        "network": found.network["eth0"][1],
    }


def undisturbed(account: Account) -> set[int]:
    """What was counted by the counters beside those that were reset."""
    found = account.totals
    return {found.counters[0], found.block["vda"][1], found.network["eth0"][0]}


@given(lives)
def test_what_came_after_a_reset_counts(life: list[Step]) -> None:
    """Totals are the sums of what was shown since each reset, no counter disturbs another.

    A counter that has grown beyond its old value again before anybody looked hides its reset: all
    that can be told is the growth that is visible, which is less than there was and not negative.
    """
    cutter = Cutter("c", Terms(tenant="acme", name="web"), lambda boot_ns: boot_ns)
    account = transition(cutter.start(begin(None, "boot:1", START, is_new=True)), "running", START)
    raw = dict.fromkeys(KINDS, 0)
    expected = dict.fromkeys(KINDS, 0)
    for number, step in enumerate(life, 1):
        old = dict(raw)
        for kind in KINDS:
            raw[kind] = (0 if kind in step.zeroed else raw[kind]) + step.growth[kind]
            expected[kind] += raw[kind] - old[kind] if raw[kind] >= old[kind] else raw[kind]
        seen = reading(START + number * HOUR_NS, raw)
        after, anomalies = advance(account, seen, cores=CORES)
        account = cutter.take(account, after, seen, anomalies)

        assert totals(account) == expected
        assert undisturbed(account) == {7}
        fell = any(raw[kind] < old[kind] for kind in KINDS)
        assert anomalies == (("counter_reset",) if fell else ())
        assert advance(account, seen, cores=CORES).anomalies == ()  # told once, not again
    cutter.end(account, "exit", 0)
    for draft in cutter.drafts:
        assert min(getattr(draft.record, name) for name in SUMMED) >= 0
        assert min(sums_of(draft.record).values(), default=0) >= 0
        assert len(draft.record.anomalies) == len(set(draft.record.anomalies))
