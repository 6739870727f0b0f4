"""Asking before something is removed for good."""

from __future__ import annotations

from aruntime.daemon.commands.flags import Flag
from aruntime.daemon.session import Session

FORCE = Flag("force", "f", "bool", help="Do not prompt for confirmation")


async def confirmed(session: Session, question: str) -> bool:
    """Ask the user and read a line of the client's input; anything but yes is no."""
    await session.out(f"{question} [y/N] ")
    answer = b""
    async for typed in await session.stdin():
        answer += typed
        if b"\n" in answer:
            break
    return answer.partition(b"\n")[0].strip().lower() in {b"y", b"yes"}
