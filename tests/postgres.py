"""A real PostgreSQL of a test: a cluster of its own on a unix socket, by Debian's server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness import wait_until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
USER = "postgres"


class Cluster:
    """Owns a directory and a server; the server can be killed and started again."""

    def __init__(self) -> None:
        if not BINARIES:
            advice = "initdb is missing: apt-get install postgresql"
            if os.environ.get("CI"):
                pytest.fail(advice)
            pytest.skip(advice)
        self.binaries = BINARIES[-1].parent
        self.base = Path(tempfile.mkdtemp(prefix=f"aruntime-test-{os.getpid()}-"))
        shutil.chown(self.base, USER, USER)
        self.process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", "data", "-A", "trust", "--no-sync", "-U", "root", "--no-locale",
                  "-E", "UTF8").wait()  # fmt: skip

    @property
    def dsn(self) -> str:
        """How to reach it."""
        return f"host={self.base} dbname=postgres user=root"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.process = self._run(
            "postgres", "-D", "data", "-c", "listen_addresses=", "-c", "fsync=off",
            "-c", f"unix_socket_directories={self.base}", "-c", "shared_buffers=8MB",
        )  # fmt: skip
        wait_until(self._answers, 30, what="PostgreSQL answers")

    def kill(self) -> None:
        """Kill the server at once, as a crash would; committed rows survive."""
        assert self.process is not None
        pid = self.process.pid
        family = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for each in (pid, *family):
            os.kill(each, signal.SIGKILL)
        self.process.wait(10)
        left = [Path(f"/proc/{each}") for each in family]  # its orphans hold the shared memory
        wait_until(lambda: not any(each.exists() for each in left), what="their end")
        self.process = None

    def stop(self) -> None:
        """Stop the server and remove everything."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # the fast shutdown
            self.process.wait(20)
            self.process = None
        shutil.rmtree(self.base)

    def query(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query; short names are those of the schema ``aruntime``."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO aruntime")
            cursor = connection.execute(text.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.base / "log", "ab") as log:
            return subprocess.Popen(
                [str(self.binaries / program), *words],
                cwd=self.base, user=USER, group=USER, extra_groups=[], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )  # fmt: skip
