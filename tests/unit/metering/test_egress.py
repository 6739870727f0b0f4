"""What left the host: a counter that accounts and records of earlier versions do not have."""

from __future__ import annotations

import msgspec

from aruntime.metering.account import Account, Reading, Totals
from aruntime.metering.chain import sums_of
from aruntime.metering.integrals import advance
from aruntime.metering.intervals import Interval, Terms, merge, open_interval, record_of, split
from aruntime.metering.quantities import counts
from aruntime.metering.record import LedgerRecord
from aruntime.metering.totals import TenantTotals, add_growth

OLD = (100, 200, 1, 2, 0, 0)
NOW = (110, 230, 2, 5, 0, 1, 20, 1)
LATER = (110, 290, 2, 9, 0, 1, 70, 4)


def account(**fields: object) -> Account:
    """Return an account as a version that knew no egress left it."""
    known = {
        "incarnation": "boot:7:1000", "status": "running", "time_ns": 2000, "sample_ns": 2000,
        "network_raw": {"eth0": list(OLD)}, "totals": {"network": {"eth0": list(OLD)}}, **fields,
    }  # fmt: skip
    return msgspec.json.decode(msgspec.json.encode(known), type=Account)


def read(row: tuple[int, ...], at_ns: int) -> Reading:
    """Return a reading of the network's counters."""
    return Reading(at_ns, 0, 0, network={"eth0": row})


def interval_of(of: Account) -> Interval:
    """Return an interval that begins where an account stands."""
    return open_interval(of, Terms(tenant="acme"), 0, nth=1)


def test_an_earlier_account_goes_on() -> None:
    """The other counters by their differences, this one by all that it shows."""
    before = account()
    after, anomalies = advance(before, read(NOW, 3000), cores=1)

    assert after.totals.network["eth0"] == NOW
    assert anomalies == ()
    record = record_of(interval_of(before), after)
    assert record.net == {"eth0": (10, 30, 1, 3, 20, 1)}
    assert sums_of(record)["net_egress"] == 20
    later, _ = advance(after, read(LATER, 4000), cores=1)
    assert record_of(interval_of(after), later).net == {"eth0": (0, 60, 0, 4, 50, 3)}
    assert record_of(interval_of(before), split(before, after, 2500)).net["eth0"][4] == 10


def test_a_tenants_total_grows_by_what_left() -> None:
    """From the account that had none to the one that has, and on."""
    before = account()
    after, _ = advance(before, read(NOW, 3000), cores=1)
    later, _ = advance(after, read(LATER, 4000), cores=1)
    tenant = TenantTotals(network_transmit_bytes=200, containers=1)
    tenant = add_growth(tenant, before, after)

    assert (tenant.network_egress_bytes, tenant.network_transmit_bytes) == (20, 230)
    tenant = add_growth(tenant, after, later)
    assert (tenant.network_egress_bytes, tenant.network_transmit_bytes) == (70, 290)
    assert tenant.containers == 1


def test_a_counter_that_was_reset_is_all_new() -> None:
    """Somebody flushed the tables: nothing falls, and what is counted since is added."""
    after, _ = advance(account(), read(NOW, 3000), cores=1)
    flushed, anomalies = advance(after, read((*NOW[:6], 0, 0), 4000), cores=1)
    again, _ = advance(flushed, read((*NOW[:6], 5, 1), 5000), cores=1)

    assert anomalies == ("counter_reset",)
    assert flushed.totals.network["eth0"] == NOW
    assert again.totals.network["eth0"] == (*NOW[:6], 25, 2)


def test_records_of_an_earlier_version() -> None:
    """They count nothing as egress; one of them and one of ours make one."""
    short = LedgerRecord(net={"eth0": (1, 2, 3, 4)}, incarnation="i")
    whole = LedgerRecord(net={"eth0": (1, 2, 3, 4, 5, 6)}, incarnation="i")

    assert (counts(short)["network_egress"], counts(short)["network_transmit"]) == (0, 2)
    assert "net_egress" not in sums_of(short)
    for first, second in ((short, whole), (whole, short)):
        assert merge(first, second).net == {"eth0": (2, 4, 6, 8, 5, 6)}


def test_totals_of_an_earlier_version_have_none() -> None:
    """A container that ended before is no error."""
    ended = Account(totals=Totals(network={"eth0": OLD}))

    assert add_growth(TenantTotals(), None, ended).network_egress_bytes == 0
