"""The health check of a new container: flags over the image's HEALTHCHECK. Pure."""

from __future__ import annotations

from aruntime.container.config import Health
from aruntime.daemon.commands.flags import Parsed
from aruntime.errors import InvalidParameter
from aruntime.images.image import Healthcheck

MINIMUM_NS = 1_000_000
_TIMES = {
    "health-interval": "interval_ns",
    "health-timeout": "timeout_ns",
    "health-start-period": "start_period_ns",
    "health-start-interval": "start_interval_ns",
}


def requested_health(parsed: Parsed, image: Healthcheck | None) -> Health | None:
    """Return the health check, None if there is none.

    Raises:
        InvalidParameter: contradicting flags or a time that makes no sense.
    """
    asked = [name for name in (*_TIMES, "health-retries", "health-cmd") if parsed[name]]
    if parsed.boolean("no-healthcheck"):
        if asked:
            raise InvalidParameter("--no-healthcheck conflicts with --health-* options")
        return None
    for name in (*_TIMES, "health-retries"):
        if parsed.integer(name) < 0:
            raise InvalidParameter(f"--{name} cannot be negative")
    for name in _TIMES:
        if 0 < parsed.integer(name) < MINIMUM_NS:
            raise InvalidParameter(f"--{name} cannot be less than 1ms")
    base = image or Healthcheck()
    command = parsed.string("health-cmd")
    test = ("CMD-SHELL", command) if command else base.test
    if not test or test[0] == "NONE":
        return None
    times = {field: parsed.integer(name) or getattr(base, field) for name, field in _TIMES.items()}
    return Health(test=test, retries=parsed.integer("health-retries") or base.retries, **times)
