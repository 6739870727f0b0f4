"""One foreign cgroup under the meter: what differs from a container of our own.

Its counters may be older than its metering, it ends when its directory goes, and nobody waits for
us to read it before. All methods block; call them in a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from aruntime.kernel import process
from aruntime.metering.account import ProcessIo, Reading
from aruntime.metering.clock import boottime_ns
from aruntime.metering.ending import EQUAL_READINGS, OFF_CPU_PAUSE_SECONDS, OFF_CPU_SECONDS
from aruntime.metering.integrals import UNREAD, advance, close, flag_estimate
from aruntime.metering.reading import read_process_io
from aruntime.metering.subject import Subject


class ForeignSubject(Subject):
    """See the module; of our own containers it is a :class:`Subject` and nothing else."""

    def begin_here(self, clock: Callable[[], int] = boottime_ns) -> bool:
        """Begin with what the counters show now, none of which is billed; False if it is gone.

        Raises:
            OSError: a file cannot be read although the cgroup exists.
            ValueError: a file is not in the kernel's format.
        """
        with self._lock:
            reading = self._read(clock=clock)
            if reading is None:
                return False
            before = self._settled()
            after = advance(before, reading, cores=self._cores).account
            began = msgspec.structs.replace(after, totals=before.totals)
            self._account = self.cuts.start(began)
            self.polled_boot_ns = reading.boot_ns
            return True

    def read_emptied(
        self,
        zombie_pid: int,
        is_empty: Callable[[], bool],
        clock: Callable[[], int] = boottime_ns,
    ) -> bool:
        """Read everything after the last process ended; whether it was the last one.

        Waits until the zombie has left its processor, and reads until the CPU counter stands
        still. Memory is held at its last sample up to here, for a dead cgroup shows only remains.

        Args:
            zombie_pid: of the process that ended, 0 if unknown; its program reaps it any moment.
            is_empty: whether there is no process.
            clock: boot time.

        Raises:
            OSError: a file cannot be read although the cgroup exists.
            ValueError: a file is not in the kernel's format.
        """
        figures = _last_figures(zombie_pid) if zombie_pid else None
        empty = is_empty()
        with self._lock:
            self._reopen()
            for number in range(EQUAL_READINGS):
                before = self._settled().cpu_raw
                reading = self._read(clock=clock, process=figures)
                if reading is None:
                    return False
                self._take(reading, hold=not number)
                if number and self._account.cpu_raw == before:
                    break
        return empty

    def vanish(self, *, is_read: bool, clock: Callable[[], int] = boottime_ns) -> None:
        """End with the removal of the cgroup.

        Args:
            is_read: everything was read after its last process had ended. If not, what it used
                since the last reading is lost: memory is held at the last sample, and the record
                says that it is an estimate.
            clock: boot time.
        """
        with self._lock:
            now = clock()
            if not is_read:
                self._account = flag_estimate(self._settled(), UNREAD)
                if self._account.sample_ns:
                    held = Reading(now, self._account.cpu_raw, self._account.sample_bytes)
                    self._take(held, hold=True)
                self._count("unread_cgroup")
            self._account = close(self._settled(), None, now)

    def reopen(self) -> None:
        """Open the files anew at the next reading: the cgroup is in more trees than before."""
        with self._lock:
            self._reopen()

    def _reopen(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _last_figures(pid: int) -> ProcessIo | None:
    """Storage traffic of a zombie, None if it was reaped already."""
    give_up = time.monotonic() + OFF_CPU_SECONDS
    try:
        while not process.is_off_cpu(pid) and time.monotonic() < give_up:
            time.sleep(OFF_CPU_PAUSE_SECONDS)
        return read_process_io(pid)
    except OSError:
        return None
