"""The unpacking child: unpacks what an untrusted archive holds, far from the daemon's loop.

Started by the daemon as ``python -I …/unpack.py PACKAGES REQUEST`` (PACKAGES is the directory the
package ``aruntime`` is in, since an isolated interpreter knows only its own). It reads the archive
from an inherited descriptor, works in an ingest directory, and prints one line of JSON:

    REQUEST  {"operation": "import"|"load"|"layer", "fd", "store", "ingest", "parent",
              "limits": […]}, for load "platform", for layer "chain", "digest", "diff_id",
              "size" (bytes the archive will have; null: it is complete)
    answer   {"result": …} or {"error": {"kind": "InvalidArchive"|…, "message"}}

The exit code is 0 either way. It sees nothing but the store and the ingest directory, and can
change only the latter (:mod:`aruntime.images.confinement`); a killed one leaves it to the daemon.
For "layer" the directories of the layers below come on standard input, one JSON list, once they
are all there: children unpack the layers of one image side by side, and only one whose layer
depends on those below waits for them.

When its daemon dies it stops by itself; until then it holds the store's lock, so that the next
daemon does not clean up under its feet.

Standard library only, isal, and zstandard when a zstd stream may come.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import json
from collections.abc import Callable, Sequence
from typing import Any, overload

from aruntime.errors import AruntimeError, InvalidArchive, Unavailable
from aruntime.images import archive, layers, staging
from aruntime.images.compression import KINDS, Input, Limits, gzip_library
from aruntime.images.confinement import confine
from aruntime.images.growing import Growing, Watch
from aruntime.images.platform import Platform
from aruntime.images.staging import Site
from aruntime.kernel import capabilities, storage

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
ZSTD = next(kind for kind in KINDS if kind.name == "zstd")
MAGIC_BYTES = len(ZSTD.magic)
STDIN = 0


class Below(Sequence[str]):
    """Directories of the layers below, read from standard input when somebody looks.

    Raises:
        Unavailable: from any look, when the daemon has gone before it knew them.
    """

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._paths: list[str] | None = None

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._known()[index]

    def __len__(self) -> int:
        return len(self._known())

    def _known(self) -> list[str]:
        if self._paths is None:
            text = b""
            source = Input(STDIN, self._alive)
            while not text.endswith(b"\n"):
                piece = source.read()
                if not piece:
                    raise Unavailable("the layers below did not come to be")
                text += piece
            self._paths = json.loads(text)
        return self._paths


def main(request_text: str) -> None:
    """Do what the request says and print the answer."""
    request = json.loads(request_text)
    os.umask(0)
    try:
        import_for(request["operation"], request["fd"])
        watch = Watch(request["fd"]) if request.get("size") is not None else None
        confine(request["store"], request["ingest"])
        capabilities.keep_only(NEEDED)
        answer: dict[str, Any] = {"result": answer_to(request, watch)}
    except AruntimeError as error:
        answer = failure(error)
    except OSError as error:
        answer = failure(layers.explained(error, None, request["store"]))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def import_for(operation: str, fd: int) -> None:
    """Import what decompresses, for zstd unless no such stream can come: later it cannot be."""
    gzip_library()
    try:
        start = os.pread(fd, MAGIC_BYTES, os.lseek(fd, 0, os.SEEK_CUR))
    except OSError:
        start = b""  # a pipe: nothing is known yet
    if start and not start.startswith(ZSTD.magic) and operation != "load":
        return
    import zstandard  # noqa: F401 - while its files can still be seen


def failure(error: AruntimeError) -> dict[str, Any]:
    """Return the answer for an error; the daemon knows two kinds."""
    kind = "InvalidArchive" if isinstance(error, InvalidArchive) else "Unavailable"
    return {"error": {"kind": kind, "message": error.message}}


def answer_to(request: dict[str, Any], watch: Watch | None) -> Any:
    """Carry out a request.

    Args:
        request: see above.
        watch: of an archive that still comes.

    Raises:
        AruntimeError: InvalidArchive or Unavailable.
        OSError: the host fails.
    """
    parent = request["parent"]

    def alive() -> None:
        if os.getppid() != parent:
            raise Unavailable("the daemon is gone")

    site = Site(request["store"], request["ingest"], Limits(*request["limits"]), alive)
    if request["operation"] == "layer":
        site = site._replace(scratch=f"unpacking-{os.getpid()}")
        digest, diff_id = request["digest"], request["diff_id"]
        fd = request["fd"]
        source = Growing(fd, request["size"], watch, alive) if watch else Input(fd, alive)
        # The daemon makes it durable, once for all layers of the image.
        return staging.stage_blob(
            site, source, request["chain"], Below(alive), digest=digest, diff_id=diff_id
        )._asdict()
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
