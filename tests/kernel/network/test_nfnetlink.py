"""Elements and counters put into real nftables tables, against what nft lists."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aruntime.network import nfnetlink
from aruntime.network.nfnetlink import NfTables, Table

if TYPE_CHECKING:
    from tests.kernel.network.conftest import Host

pytestmark = pytest.mark.kernel

TABLE = Table("ip", "artest0")
SCRIPT = """
add table ip artest0
add map ip artest0 ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
add map ip artest0 count { type ipv4_addr : counter; }
add set ip artest0 links { type ifname; }
"""
KEY = bytes([6, 0, 0, 0, 0x1F, 0x90, 0, 0])
VALUE = bytes([10, 0, 0, 2, 0, 80, 0, 0])


@pytest.fixture
def tables(host: Host) -> Iterator[NfTables]:
    """Return a connection inside a namespace that has a table."""
    host.run(subprocess.run, ["/usr/sbin/nft", "-f", "-"], input=SCRIPT, text=True, check=True)
    connection = NfTables()
    yield connection
    connection.close()


def listed(host: Host, kind: str, name: str) -> Any:
    """Return an object of the table as nft shows it."""
    command = ["/usr/sbin/nft", "--json", "list", kind, *TABLE, name]
    shown = host.run(subprocess.run, command, capture_output=True, check=True)
    return json.loads(shown.stdout)["nftables"][-1][kind]


def test_elements_are_what_nft_shows(host: Host, tables: NfTables) -> None:
    """A concatenated key with its value, a name padded with zeroes, and their removal."""
    host.run(
        tables.commit,
        [
            nfnetlink.add_element(TABLE, "ports", KEY, VALUE),
            nfnetlink.add_element(TABLE, "links", b"artest0".ljust(16, b"\0")),
        ],
    )

    assert listed(host, "map", "ports")["elem"] == [
        [{"concat": ["tcp", 8080]}, {"concat": ["10.0.0.2", 80]}]
    ]
    assert listed(host, "set", "links")["elem"] == ["artest0"]

    host.run(tables.commit, [nfnetlink.delete_element(TABLE, "ports", KEY)])
    assert "elem" not in listed(host, "map", "ports")


def test_a_named_counter_lives_until_deleted(host: Host, tables: NfTables) -> None:
    """It is found by its name and in the dump; adding it again leaves it as it is."""
    add = [
        nfnetlink.add_counter(TABLE, "eth0-c"),
        nfnetlink.add_element(TABLE, "count", bytes([10, 0, 0, 2]), "eth0-c"),
    ]
    host.run(tables.commit, add)
    host.run(tables.commit, add)
    host.run(tables.commit, [nfnetlink.add_counter(TABLE, "eth0-d")])

    assert host.run(tables.read_counters, TABLE, "eth0-c") == {"eth0-c": (0, 0)}
    assert set(host.run(tables.read_counters, TABLE)) == {"eth0-c", "eth0-d"}
    assert host.run(tables.read_counters, TABLE, "none") == {}
    with pytest.raises(OSError) as busy:
        host.run(tables.commit, [nfnetlink.delete_counter(TABLE, "eth0-c")])
    assert busy.value.errno == errno.EBUSY
    host.run(
        tables.commit,
        [
            nfnetlink.delete_element(TABLE, "count", bytes([10, 0, 0, 2])),
            nfnetlink.delete_counter(TABLE, "eth0-c"),
        ],
    )
    assert set(host.run(tables.read_counters, TABLE)) == {"eth0-d"}


def test_a_refused_change_undoes_the_others(host: Host, tables: NfTables) -> None:
    """One element that is not there: nothing of the transaction has happened."""
    other = KEY[:5] + b"\x91" + KEY[6:]
    with pytest.raises(OSError) as missing:
        host.run(
            tables.commit,
            [
                nfnetlink.add_element(TABLE, "ports", KEY, VALUE),
                nfnetlink.delete_element(TABLE, "ports", other),
            ],
        )

    assert missing.value.errno == errno.ENOENT
    assert "elem" not in listed(host, "map", "ports")


def test_a_thousand_elements_take_several_batches(host: Host, tables: NfTables) -> None:
    """More changes than one transaction holds, then a map emptied by one."""
    keys = [bytes([6, 0, 0, 0]) + port.to_bytes(2, "big") + b"\0\0" for port in range(1, 1001)]
    host.run(tables.commit, [nfnetlink.add_element(TABLE, "ports", key, VALUE) for key in keys])
    assert len(listed(host, "map", "ports")["elem"]) == 1000

    host.run(tables.commit, [nfnetlink.clear_map(TABLE, "ports")])
    assert "elem" not in listed(host, "map", "ports")


def test_whether_a_table_is_there(host: Host, tables: NfTables) -> None:
    """By name and family; after close the connection opens itself again."""
    assert host.run(tables.is_table, TABLE)
    assert not host.run(tables.is_table, Table("ip6", "artest0"))
    tables.close()
    assert not host.run(tables.is_table, Table("ip", "other"))
    assert host.run(tables.read_counters, Table("ip", "other")) == {}


def test_a_missing_table_is_named(host: Host, tables: NfTables) -> None:
    """Changing what is not there fails at once; the connection goes on."""
    with pytest.raises(OSError) as missing:
        host.run(tables.commit, [nfnetlink.add_element(Table("ip", "other"), "ports", KEY, VALUE)])
    assert missing.value.errno == errno.ENOENT
    assert host.run(tables.is_table, TABLE)
