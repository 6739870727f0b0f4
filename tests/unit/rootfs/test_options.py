"""Mount options of the specification, sorted by who takes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import InvalidSpec
from aruntime.kernel import mounts
from aruntime.rootfs import options

RO, EXEC = mounts.MOUNT_ATTR_RDONLY, mounts.MOUNT_ATTR_NOEXEC


def test_docker_shm() -> None:
    """Attributes are recognised; what is left belongs to the file system."""
    found = options.parse(["nosuid", "noexec", "nodev", "mode=1777", "size=65536k", "huge"])

    assert found.attributes == (
        mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_NODEV,
        0,
    )
    assert found.parameters == (("mode", "1777"), ("size", "65536k"), ("huge", None))
    assert not found.bind


@pytest.mark.parametrize(
    ("given_options", "expected"),
    [
        (["ro"], (RO, 0)),
        (["ro", "rw"], (0, RO)),
        (["rw", "ro"], (RO, 0)),
        (["ro", "noexec", "exec"], (RO, EXEC)),
        (["noatime"], (mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR__ATIME)),
        (["noatime", "relatime"], (0, mounts.MOUNT_ATTR__ATIME)),
        (["strictatime", "noatime"], (mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR__ATIME)),
    ],
)
def test_the_last_option_wins(given_options: list[str], expected: tuple[int, int]) -> None:
    """Opposites replace each other, access time modes as one field."""
    assert options.parse(given_options).attributes == expected


def test_recursive_forms() -> None:
    """rro and its kind are kept apart from ro."""
    found = options.parse(["rbind", "rro", "rnosuid", "noexec"])

    assert (found.bind, found.bind_recursive) == (True, True)
    assert found.recursive == (RO | mounts.MOUNT_ATTR_NOSUID, 0)
    assert found.attributes == (EXEC, 0)
    assert found.parameters == ()


@pytest.mark.parametrize(
    ("option", "kind", "recursive"),
    [
        ("rprivate", mounts.MS_PRIVATE, True),
        ("private", mounts.MS_PRIVATE, False),
        ("rslave", mounts.MS_SLAVE, True),
        ("shared", mounts.MS_SHARED, False),
        ("runbindable", mounts.MS_UNBINDABLE, True),
    ],
)
def test_propagation(option: str, kind: int, recursive: bool) -> None:
    """A propagation is for the mount, or with r for its submounts too."""
    found = options.parse(["bind", option])

    assert (found.propagation, found.propagation_recursive) == (kind, recursive)


def test_harmless_and_special() -> None:
    """defaults says nothing; tmpcopyup is a request to this runtime, not to tmpfs."""
    found = options.parse(["defaults", "async", "tmpcopyup"])

    assert (found.attributes, found.parameters, found.copy_up) == ((0, 0), (), True)


@pytest.mark.parametrize("option", ["remount", "move", "idmap", "ridmap"])
def test_what_is_not_honoured_is_refused(option: str) -> None:
    """No option is ignored in silence if it would change what the user gets."""
    with pytest.raises(InvalidSpec, match=f"'{option}' is not supported"):
        options.parse([option])


@given(st.lists(st.sampled_from(sorted(options.ATTRIBUTES))))
def test_the_kernel_accepts_the_pair(given_options: list[str]) -> None:
    """A bit is set or cleared, not both, and an access time is cleared whole before it is set."""
    to_set, to_clear = options.parse(given_options).attributes
    atime = mounts.MOUNT_ATTR__ATIME

    assert to_set & to_clear & ~atime == 0
    assert to_clear & atime in (0, atime)
    if to_set & atime:
        assert to_clear & atime == atime
        assert (to_set & atime) in (mounts.MOUNT_ATTR_NOATIME, mounts.MOUNT_ATTR_STRICTATIME)
