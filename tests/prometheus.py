"""A real Prometheus for tests: Debian's, on the loopback, with its data in a test's directory."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.conftest import require_program
from tests.harness import wait_until


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Prometheus:
    """Debian's Prometheus, scraping one target every second.

    Args:
        directory: for its configuration and its data.
        target: ``HOST:PORT`` it scrapes.
        job: further lines of the scrape's configuration, indented by four.
    """

    def __init__(self, directory: Path, target: str, job: str = "") -> None:
        self.port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            "scrape_configs:\n"
            f"  - job_name: aruntime\n    static_configs: [{{targets: ['{target}']}}]\n{job}"
        )
        self.process = subprocess.Popen(
            [
                require_program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.is_ready, 30, "Prometheus answers")

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as r:
                return int(r.status) == 200
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query."""
        words = urllib.parse.urlencode({"query": expression})
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{words}"
        with urllib.request.urlopen(url, timeout=5) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
            return found

    def close(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
