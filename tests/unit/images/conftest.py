"""What the tests of images share."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with other things is no reason to fail.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
