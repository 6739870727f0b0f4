"""Programs of ours that the daemon runs for what it must not do itself, and their answers.

Each is a file of the package, started in an isolated interpreter with one JSON request; it answers
with one line of JSON, ``{"result"}`` or ``{"error": {"kind", "message"}}``. Cancelling kills it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import trio

import aruntime
from aruntime import errors
from aruntime.errors import AruntimeError, Unavailable

PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(aruntime.__file__)))
STDERR_SHOWN = 300
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": os.defpath}


async def ask(
    program: str,
    request: Mapping[str, Any],
    fds: Sequence[int],
    *,
    what: str,
    stdin: int = subprocess.DEVNULL,
    packages: bool = True,
) -> dict[str, Any]:
    """Run a program to its end and return its result.

    Args:
        program: its path below the package.
        request: what it is to do.
        fds: descriptors it inherits, at their numbers; it gets nothing else of the daemon's.
        what: names it in an error.
        stdin: its standard input.
        packages: whether it may need other packages than ours; looking for them takes a while.

    Raises:
        AruntimeError: what the program answered; Unavailable if it gave no answer.
    """
    completed = await trio.run_process(
        [
            sys.executable,
            "-I" if packages else "-IS",
            os.path.join(PACKAGES, "aruntime", program),
            PACKAGES,
            json.dumps(request),
        ],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        pass_fds=fds,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,  # with no more weight than anybody (priority.py)
    )
    try:
        answer = json.loads(completed.stdout)
    except ValueError:
        said = completed.stderr.decode(errors="replace").strip()[-STDERR_SHOWN:]
        raise Unavailable(
            f"{what} ended with code {completed.returncode}"
            f" and no answer; {said or 'was it killed for lack of memory?'}"
        ) from None
    if "error" in answer:
        raise as_error(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def as_error(answer: Mapping[str, str]) -> AruntimeError:
    """Return the error that a program answered with."""
    kind = getattr(errors, answer["kind"], Unavailable)
    if not (isinstance(kind, type) and issubclass(kind, AruntimeError)):
        kind = Unavailable
    made: AruntimeError = kind(answer["message"])
    return made
