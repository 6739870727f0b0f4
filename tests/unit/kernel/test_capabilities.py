"""Capability numbers and sets, compared with what /proc says of this process."""

from __future__ import annotations

from pathlib import Path

from aruntime.kernel import capabilities


def status_mask(field: str) -> int:
    """Return one Cap* line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value, 16)
    raise LookupError(field)


def test_numbers_of_well_known_capabilities() -> None:
    """Numbers are the kernel's (include/uapi/linux/capability.h)."""
    expected = {"CAP_CHOWN": 0, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27,
                "CAP_SETFCAP": 31, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40}  # fmt: skip

    assert expected.items() <= capabilities.NUMBERS.items()
    assert list(capabilities.NUMBERS.values()) == list(range(len(capabilities.NAMES)))


def test_capget_is_what_proc_says() -> None:
    """All 64 bits of the three sets come back in their places."""
    expected = tuple(map(status_mask, ("CapEff", "CapPrm", "CapInh")))

    assert capabilities.capget() == expected


def test_bounding_is_what_proc_says() -> None:
    """The bounding set is read bit by bit."""
    assert capabilities.bounding() == status_mask("CapBnd")


def test_last_cap_is_what_proc_says() -> None:
    """The highest capability is found without reading a file."""
    expected = int(Path("/proc/sys/kernel/cap_last_cap").read_text())

    assert capabilities.last_cap() == expected


def test_capset_to_the_present_sets() -> None:
    """Setting what is set already is allowed to everybody and changes nothing."""
    before = capabilities.capget()

    capabilities.capset(*before)

    assert capabilities.capget() == before
