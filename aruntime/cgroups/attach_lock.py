"""Makes the kernel's lock for moving processes between cgroups ready before it is needed.

After some idle milliseconds the first write to any cgroup.procs waits 5 to 15 ms for an RCU grace
period (cgroup_threadgroup_rwsem is a percpu_rw_semaphore: kernel/cgroup/cgroup.c,
kernel/rcu/sync.c); the writes that follow within the next milliseconds do not. A write that moves
this process to where it is already takes the same lock and changes nothing, so the wait can be had
while a start is still being prepared.
"""

from __future__ import annotations

import os

from aruntime.cgroups.detect import Hierarchy
from aruntime.cgroups.files import read_file, write_file


def warm_up(hierarchy: Hierarchy) -> None:
    """Take and release the lock once; blocks for a grace period. Failures do not matter.

    Source: the percpu_rw_semaphore's writer side stays fast until the next grace period ends.
    """
    for line in read_file("/proc/self/cgroup").decode().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = hierarchy.v1.get(controllers.split(",")[0]) or hierarchy.unified
        if mount is None:
            continue
        try:
            write_file(f"{mount}{path.rstrip('/')}/cgroup.procs", str(os.getpid()))
        except OSError:
            continue  # a group that may not be written, or a path outside this cgroup namespace
        return
