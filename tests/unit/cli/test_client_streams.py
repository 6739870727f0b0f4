"""What goes through the client: streams, files, exit codes; what readers and writers do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Served


async def test_streams_code_and_surroundings(served: Served, tmp_path: Path) -> None:
    """Both streams, exit code, argv, working directory and environment go through."""
    done = await served.run("show", "a b", "ü", cwd=tmp_path)
    assert done.stdout.decode() == f"{tmp_path} ['a b', 'ü'] mark\n"
    assert done.stderr == b"FalseFalse 0x0\n"
    assert done.returncode == 42


async def test_who_asks_is_the_kernels_word(served: Served) -> None:
    """The session knows the client's process id."""
    async with served.started(
        "show", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        await process.wait()
        session = served.seen.session
        assert session is not None
        assert (session.pid, session.uid) == (process.pid, os.getuid())


async def test_stdin_goes_through_whole(served: Served) -> None:
    """Megabytes of stdin come back unchanged and their end ends the command."""
    text = os.urandom(5 << 20)
    done = await served.run("cat", stdin=text)
    assert done.stdout == text
    assert (done.returncode, done.stderr) == (0, b"")


async def test_stdin_from_file_and_from_nothing(served: Served, tmp_path: Path) -> None:
    """A regular file is polled and read; a closed stdin is empty."""
    (tmp_path / "in").write_bytes(b"x" * 100_000)
    with (tmp_path / "in").open("rb") as file:
        assert (await served.run("cat", stdin=file)).stdout == b"x" * 100_000
    done = await served.shell("exec $CLIENT cat <&- | cat")
    assert done.stdout == b""


async def test_stdin_not_asked_for_is_left_alone(served: Served) -> None:
    """A command that wants no stdin leaves it to the next program (`while read` loops)."""
    done = await served.shell("$CLIENT show >/dev/null 2>&1; cat", stdin=b"for cat")
    assert done.stdout == b"for cat"


async def test_reader_that_goes_kills_by_sigpipe(served: Served) -> None:
    """`aruntime logs x | head -1`: the client dies as every program does, the command ends."""
    async with served.started("flood", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await process.stdout.receive_some(10)
        await process.stdout.aclose()
        assert await process.wait() == -signal.SIGPIPE
        await served.seen.ended.wait()


async def test_reader_that_goes_is_noticed_while_nothing_is_written(served: Served) -> None:
    """`aruntime logs -f x | head -1` ends although the container says no more."""
    async with served.started("once", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await process.stdout.receive_some(100)
        await process.stdout.aclose()
        assert await process.wait() == -signal.SIGPIPE
        await served.seen.ended.wait()


async def test_finished_command_keeps_its_code_though_nobody_reads(served: Served) -> None:
    """`set -o pipefail; aruntime ps | head -1` is no failure."""
    for _ in range(5):
        done = await served.shell("set -o pipefail; $CLIENT show 2>/dev/null | head -c1")
        assert done.returncode == 42


async def test_full_device_is_a_clear_error(served: Served) -> None:
    """A write error is told once, with its reason."""
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230 - a device that never blocks
        done = await trio.run_process(
            served.command("show"),
            stdout=full, capture_stderr=True, check=False, env=served.env,
        )  # fmt: skip
    said = b"aruntime: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (125, said)


async def test_non_blocking_stdout_loses_nothing(served: Served) -> None:
    """A stdout that somebody made non-blocking is written as slowly as it is read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = os.urandom(1 << 20)
    async with served.started("cat", stdin=text, stdout=writer):
        os.close(writer)
        received = b""
        os.set_blocking(reader, False)
        while True:
            await trio.lowlevel.wait_readable(reader)
            piece = os.read(reader, 65536)
            if not piece:
                break
            received += piece
        os.close(reader)
    assert received == text


async def test_stdout_presses_back(served: Served) -> None:
    """A reader that pauses stops the command's output within the buffers on the way."""
    async with served.started("flood", stdout=subprocess.PIPE) as process:
        await served.seen.ready.wait()
        await served.wait_blocked_in_write(process.pid)
        await trio.testing.wait_all_tasks_blocked()
        assert served.seen.written < 4 << 20
        process.kill()


async def test_files_are_opened_by_the_client(served: Served, tmp_path: Path) -> None:
    """Relative to the client's directory; errors carry the path as typed."""
    (tmp_path / "in").write_text("inside")
    done = await served.run("read-file", "in", cwd=tmp_path)
    assert (done.stdout, done.returncode) == (b"inside", 0)
    done = await served.run("read-file", "absent", cwd=tmp_path)
    assert done.stderr == b"aruntime: absent: No such file or directory\n"
    done = await served.run("write-file", "out", cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b"from the daemon"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_files_are_opened_at_the_clients_rights(served: Served, open_path: Path) -> None:
    """A client without rights cannot have the daemon read for it."""
    secret = open_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    os.chmod(served.path, 0o666)
    code = (
        "import os, sys; from aruntime.cli.client import main;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        f"sys.argv[1:] = ['read-file', {str(secret)!r}]; main()"
    )
    done = await trio.run_process(
        [sys.executable, "-c", code], capture_stdout=True, capture_stderr=True,
        env=served.env, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"Permission denied" in done.stderr


async def test_closed_streams_are_never_taken_by_the_socket(served: Served) -> None:
    """`aruntime … >&-` must not write output into its own connection."""
    done = await served.shell("exec $CLIENT show <&- >&- 2>&-")
    assert done.returncode == 42


async def test_undecodable_words_go_through(served: Served) -> None:
    """An argument that is no UTF-8 arrives as its bytes (surrogate escapes)."""
    done = await trio.run_process(
        [word.encode() for word in served.command("show")] + [b"\xff"],
        capture_stdout=True, capture_stderr=True, env=served.env, check=False,
    )  # fmt: skip
    assert b"\\udcff" in done.stdout


async def test_deleted_working_directory_is_no_obstacle(served: Served, tmp_path: Path) -> None:
    """The command runs; its directory is empty."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = await served.shell(f"cd {gone} && rmdir {gone} && exec $CLIENT show 2>/dev/null")
    assert done.stdout == b" [] mark\n"
