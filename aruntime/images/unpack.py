"""The unpacking child: unpacks what an untrusted archive holds, far from the daemon's loop.

Started by the daemon as ``python -I …/unpack.py PACKAGES REQUEST`` (PACKAGES is the directory the
package ``aruntime`` is in, since an isolated interpreter knows only its own). It reads the archive
from an inherited descriptor, works in an ingest directory, and prints one line of JSON:

    REQUEST  {"operation": "import"|"load", "fd", "store", "ingest", "parent", "limits": […]}
    answer   {"result": …} or {"error": {"kind": "InvalidArchive"|…, "message"}}

The exit code is 0 either way. It changes nothing outside the ingest directory; a killed one leaves
it to the daemon. When its daemon dies it stops by itself; until then it holds the store's lock, so
that the next daemon does not clean up under its feet.

Standard library only, and zstandard when a zstd stream comes.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import json
from typing import Any

from aruntime.errors import AruntimeError, InvalidArchive, Unavailable
from aruntime.images import archive, layers, staging
from aruntime.images.compression import Limits
from aruntime.images.platform import Platform
from aruntime.images.staging import Site
from aruntime.kernel import capabilities, process, storage

NEEDED = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SYS_ADMIN",  # trusted.overlay.opaque
)
"""What making other people's files takes; everything else is given up first."""


def main(request_text: str) -> None:
    """Do what the request says and print the answer."""
    request = json.loads(request_text)
    os.umask(0)
    give_up_privileges()
    try:
        answer: dict[str, Any] = {"result": answer_to(request)}
    except AruntimeError as error:
        answer = failure(error)
    except OSError as error:
        answer = failure(layers.explained(error, None, request["store"]))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def give_up_privileges() -> None:
    """Keep only the capabilities that unpacking needs, of those this process has."""
    process.set_no_new_privs()
    mask = sum(1 << capabilities.NUMBERS[name] for name in NEEDED)
    kept = capabilities.capget()[1] & mask
    capabilities.capset(kept, kept, 0)


def failure(error: AruntimeError) -> dict[str, Any]:
    """Return the answer for an error; the daemon knows two kinds."""
    kind = "InvalidArchive" if isinstance(error, InvalidArchive) else "Unavailable"
    return {"error": {"kind": kind, "message": error.message}}


def answer_to(request: dict[str, Any]) -> Any:
    """Carry out a request.

    Raises:
        AruntimeError: InvalidArchive or Unavailable.
        OSError: the host fails.
    """
    parent = request["parent"]

    def alive() -> None:
        if os.getppid() != parent:
            raise Unavailable("the daemon is gone")

    site = Site(request["store"], request["ingest"], Limits(*request["limits"]), alive)
    if request["operation"] == "import":
        result: Any = staging.stage_stream(site, request["fd"])._asdict()
    else:
        result = archive.load(site, request["fd"], Platform(*request["platform"]))
    _make_durable(site.ingest)
    return result


def _make_durable(directory: str) -> None:
    """Write everything out: the daemon is about to promise that it is there."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        storage.syncfs(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(sys.argv[2])
