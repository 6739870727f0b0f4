"""Read ahead: decompress and digest in one thread while another makes files of what came.

zlib, hashlib and system calls let go of the interpreter's lock, so the two really run side by side.
Only for processes without an event loop. Standard library only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Self

PIECES = 4
"""How many pieces may wait; each has about a MiB."""
LARGE_BYTES = 4 << 20
"""A piece beyond this, as a hostile zstd stream can make it, waits alone."""


class Ahead:
    """A reader whose pieces come from a thread, which ends with the ``with`` block.

    Args:
        read: returns some bytes, none at the end; called in the thread alone.
        give_up: called when no more is wanted; ends a read that waits.
    """

    def __init__(
        self, read: Callable[[], bytes], give_up: Callable[[], None] = lambda: None
    ) -> None:
        self._source = read
        self._give_up = give_up
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(PIECES)
        self._unwanted = False
        self._at_end = False
        self._thread = threading.Thread(  # noqa: TID251 -- there is no event loop here
            target=self._run, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._unwanted = True
        self._give_up()
        while self._thread.is_alive():
            try:
                self._pieces.get(timeout=0.01)
                self._pieces.task_done()
            except queue.Empty:
                continue

    def read(self, _count: int = 0) -> bytes:
        """Return the next piece, however long; none at the end, as often as asked.

        Raises:
            Exception: whatever the source raised.
        """
        if self._at_end:
            return b""
        found = self._pieces.get()
        self._pieces.task_done()
        if isinstance(found, BaseException):
            self._at_end = True
            raise found
        self._at_end = not found
        return found

    def _run(self) -> None:
        try:
            while not self._unwanted:
                piece = self._source()
                self._pieces.put(piece)
                if not piece:
                    return
                if len(piece) > LARGE_BYTES:
                    self._pieces.join()
        except BaseException as error:  # the reader raises it
            self._pieces.put(error)
