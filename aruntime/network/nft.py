"""Rules of nftables as text, through the nft program: 5 ms a transaction.

pyroute2's nftables support knows neither masquerade nor chain flushing, and the text is what ``nft
list ruleset`` shows. What every start changes goes by netlink (nfnetlink).

Out of scope: which rules there are (nat, guard).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from aruntime.errors import Unavailable

SEARCH_PATH = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"))
ERROR_MISSING_NFT = (
    "the nft program is missing and bridge networking needs it: apt-get install nftables"
)


def run(script: str) -> None:
    """Execute a transaction; one failing statement undoes the whole.

    Raises:
        Unavailable: nft is missing, or refused the rules.
    """
    _nft("-f", "-", script=script)


def chains() -> list[dict[str, Any]]:
    """Return the chains of all tables, as ``nft --json list chains`` describes them.

    Raises:
        Unavailable: nft is missing or failed.
    """
    listing = json.loads(_nft("--json", "list", "chains"))
    return [entry["chain"] for entry in listing["nftables"] if "chain" in entry]


def _nft(*arguments: str, script: str = "") -> str:
    """Run nft and return its output."""
    program = shutil.which("nft") or shutil.which("nft", path=SEARCH_PATH)
    if program is None:
        raise Unavailable(ERROR_MISSING_NFT)
    finished = subprocess.run(
        [program, *arguments], input=script, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        reason = next(iter(finished.stderr.splitlines()), f"exit code {finished.returncode}")
        raise Unavailable(f"nft refused the rules of the bridge: {reason}")
    return finished.stdout
