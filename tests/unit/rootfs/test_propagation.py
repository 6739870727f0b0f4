"""Which propagation a bind source allows."""

from __future__ import annotations

import pytest

from aruntime.errors import InvalidParameter
from aruntime.kernel.mounts import MountInfo
from aruntime.rootfs import propagation

HOST = [
    MountInfo(line)
    for line in (
        b"1 0 8:1 / / rw - ext4 /dev/a rw",
        b"2 1 8:2 / /srv rw shared:1 - ext4 /dev/b rw",
        b"3 2 8:3 / /srv/low rw master:1 - ext4 /dev/c rw",
        b"4 1 8:4 / /top rw shared:2 - ext4 /dev/d rw",
        b"5 4 8:5 / /top rw - tmpfs none rw",
    )
]


@pytest.mark.parametrize(
    ("path", "mount_id"),
    [("/", 1), ("/etc", 1), ("/srv", 2), ("/srv/x", 2), ("/srvx", 1), ("/srv/low/y", 3),
     ("/top", 5)],
)  # fmt: skip
def test_mount_of_a_path(path: str, mount_id: int) -> None:
    """The longest mount point counts, and of stacked mounts the upper one."""
    assert propagation.mount_of(path, HOST).mount_id == mount_id


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("/etc", {"", "private", "rprivate"}),
        ("/srv/x", {"", "private", "rprivate", "slave", "rslave", "shared", "rshared"}),
        ("/srv/low", {"", "private", "rprivate", "slave", "rslave"}),
        ("/top", {"", "private", "rprivate"}),
    ],
)
def test_what_a_source_allows(source: str, allowed: set[str]) -> None:
    """Private always, slave below a shared or slave mount, shared below a shared one."""
    possible = set()
    for kind in ("", "private", "rprivate", "slave", "rslave", "shared", "rshared"):
        try:
            propagation.check_source(source, kind, HOST)
        except InvalidParameter:
            continue
        possible.add(kind)

    assert possible == allowed


def test_refusal_tells_what_to_do() -> None:
    """The message names the path, its mount and the command that helps."""
    with pytest.raises(InvalidParameter, match="mount --make-shared / first"):
        propagation.check_source("/etc", "rshared", HOST)


def test_no_mounts() -> None:
    """An empty list is an error, not a guess."""
    with pytest.raises(LookupError):
        propagation.mount_of("/", [])
