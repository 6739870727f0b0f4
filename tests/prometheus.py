"""A real Prometheus for tests: Debian's, on the loopback, with its data in a test's directory."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
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
        rules: rule files it evaluates.
    """

    def __init__(
        self, directory: Path, target: str, job: str = "", rules: Sequence[Path] = ()
    ) -> None:
        self.port = free_port()
        config = directory / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"rule_files: {json.dumps([str(path) for path in rules])}\n"
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
        return self._ask("query", query=expression)

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the result of a range query, a point each second."""
        return self._ask("query_range", query=expression, start=start, end=end, step=1)

    def _ask(self, what: str, **parameters: object) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}"
        content = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(url, content, timeout=10) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters['query']}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def close(self) -> None:
        """Stop it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
