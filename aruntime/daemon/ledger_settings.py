"""The settings of the ledger: who signs it, how long it is kept, what a full disk means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from aruntime.daemon.commands.flags import Flag
from aruntime.errors import InvalidParameter
from aruntime.metering.books import FAILURE_POLICIES
from aruntime.metering.retention import RECORD_DAYS, ROLLUP_DAYS, Retention

DEFAULT_ROOT = "/var/lib/aruntime"
DEFAULT_KEY = "/etc/aruntime/ledger.key"
MOST_DAYS = 100_000

FLAGS = (
    Flag(
        "ledger-key", "", "string", None, "FILE",
        "Key that signs the ledger's checkpoints, made if it is not there; 'none': unsigned"
        f" (default {DEFAULT_KEY}, of another root ROOT.ledger.key)",
    ),
    Flag(
        "ledger-retention", "", "string", str(RECORD_DAYS), "DAYS",
        "How long records are kept; after that, sums by the hour",
    ),
    Flag(
        "ledger-rollup-retention", "", "string", str(ROLLUP_DAYS), "DAYS",
        "How long sums by the hour are kept; after that, one sum for each tenant",
    ),
    Flag(
        "on-ledger-failure", "", "choice", "run", "run|refuse",
        "Whether containers are started while the ledger cannot be written",
        choices=FAILURE_POLICIES,
    ),
)  # fmt: skip


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    key: Path | None = None
    """What signs checkpoints; None: nothing does."""
    on_failure: str = "run"
    """``run`` or ``refuse`` new containers while the ledger cannot be written."""
    retention: Retention = Retention()


def checked(chosen: dict[str, tuple[Any, str]], root: Path) -> LedgerSettings:
    """Turn (value, where it came from) by flag name into settings.

    Raises:
        InvalidParameter: a value is wrong; the message says where.
    """
    records = _days(*chosen["ledger-retention"])
    rollups = _days(*chosen["ledger-rollup-retention"])
    if rollups < records:
        where = chosen["ledger-rollup-retention"][1]
        raise InvalidParameter(
            f"{where}: sums are kept at least as long as records, {records} days"
        )
    return LedgerSettings(
        key=_key(*chosen["ledger-key"], root),
        on_failure=chosen["on-ledger-failure"][0],
        retention=Retention(record_days=records, rollup_days=rollups),
    )


def _key(text: str, where: str, root: Path) -> Path | None:
    """Never below the root: who can write the ledger's file shall not find the key beside it."""
    if text == "none":
        return None
    if not text:
        usual = root == Path(DEFAULT_ROOT)
        return Path(DEFAULT_KEY) if usual else root.with_name(f"{root.name}.ledger.key")
    if "\n" in text:
        raise InvalidParameter(f"{where} needs a path")
    path = Path(os.path.abspath(text))
    if path.is_relative_to(root):
        raise InvalidParameter(f"{where} must not be in the root, {root}: keep the key elsewhere")
    return path


def _days(text: str, where: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_DAYS:
        return int(text)
    raise InvalidParameter(f"{where} must be a number of days from 1 to {MOST_DAYS}, not {text}")
