"""Full rounds of the garbage collector, kept short.

A full round looks at every object there is, with the interpreter lock held: 10 ms and more with a
thousand containers, most of which have not changed. So what has just been found in use by a full
round is set aside (``gc.freeze``), and the next one looks at what has come since. What is set aside
is still freed when its last reference goes; only cycles are not. They are looked for again when
what is set aside has grown by half.

State: of the process, whose collector there is one of.
"""

from __future__ import annotations

import gc

GROWTH = 1.5
"""How much more may be set aside than was in use at the last round over everything."""
SPARE = 20_000
"""And this many objects on top: a small heap is looked through in no time."""


class ShortRounds:
    """See the module; between :meth:`begin` and :meth:`end`."""

    def __init__(self) -> None:
        self._in_use = 0

    def begin(self) -> None:
        """Look through everything now, set it aside, and go on like that."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._in_use = gc.get_freeze_count()
        gc.callbacks.append(self._collected)

    def end(self) -> None:
        """Leave the collector as it was found."""
        gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """The collector's callback, in whichever thread it ran."""
        if phase != "stop" or info["generation"] != 2:
            return
        gc.freeze()
        aside = gc.get_freeze_count()
        if not self._in_use:
            self._in_use = aside  # the round that ended was over everything
        elif aside > self._in_use * GROWTH + SPARE:
            gc.unfreeze()
            self._in_use = 0
