"""A signal that comes in the one instant in which nothing is woken by it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from aruntime import wire

CLIENT = """
import signal, socket, sys, threading
from aruntime.cli.conversation import Client

client = Client(socket.socket(fileno=int(sys.argv[1])))
client.forwarding = True
client.credits = int(sys.argv[2])  # with one it waits for stdin too, by poll
client.catch((signal.SIGINT,))
threading.Thread(target=threading.Event().wait, daemon=True).start()
# The other thread hears of it: the handler is due, and the wait of this one goes on.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("waits", flush=True)
client.run((0, 0))
"""


@pytest.mark.parametrize("asked", [0, 1], ids=["recv", "poll"])
def test_a_signal_without_an_interruption_is_forwarded(asked: int) -> None:
    """Soon, although the daemon says nothing."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.settimeout(30)
        number = theirs.fileno()
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(number), str(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[number],
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"waits\n"
                process.send_signal(signal.SIGINT)
                decoder = wire.Decoder()
                decoder.feed(ours.recv(100))
                assert decoder.next_frame() == (wire.SIGNAL, b"2")
            finally:
                process.kill()
