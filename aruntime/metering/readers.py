"""How many descriptors metering may hold, container by container.

Kept descriptors make a reading ten times cheaper, but the daemon needs some for everything else.
Up to half of the limit goes to readers with all files open; then readers keep the billed files
only; and near the limit a reader is opened for each reading and closed again.
"""

from __future__ import annotations

import resource
from functools import partial
from typing import NamedTuple

from aruntime.cgroups.driver import Cgroup, Driver
from aruntime.cgroups.reader import Reader

FULL_FDS = 23
"""Descriptors of a reader that keeps all its files open."""
LEAN_FDS = 10
"""Of one that keeps the billed files and the directories."""
FULL_SHARE = 0.5
LEAN_SHARE = 0.8
"""Of the limit, up to which readers of each kind are opened."""


class Access(NamedTuple):
    """How a container is to be read."""

    open: partial[Reader]
    is_kept: bool
    """Whether the reader stays open between readings."""


def access_to(driver: Driver, cgroup: Cgroup, count: int, limit: int | None = None) -> Access:
    """Choose for one more container.

    Args:
        driver: opens the reader.
        cgroup: the container's.
        count: containers already metered.
        limit: descriptors the process may have, by default RLIMIT_NOFILE.
    """
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    full = int(limit * FULL_SHARE) // FULL_FDS
    lean = full + int(limit * (LEAN_SHARE - FULL_SHARE)) // LEAN_FDS
    opener = partial(driver.open_reader, cgroup)  # without keywords it weighs half
    if count >= full:
        opener = partial(driver.open_reader, cgroup, keep_open=False)
    return Access(opener, is_kept=count < lean)
