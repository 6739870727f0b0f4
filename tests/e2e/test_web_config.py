"""The metrics address with TLS and users: a real Prometheus gets in, others get 401."""

from __future__ import annotations

import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.conftest import require_program
from tests.harness import RunningDaemon, wait_until
from tests.prometheus import Prometheus

pytestmark = pytest.mark.e2e


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RunningDaemon]:
    """Yield a daemon whose metrics need the authority's certificate and alice's password."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    for name, host in (("server", "127.0.0.1"), ("client", "scraper.example")):
        pair = authority.issue_cert(host)
        pair.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        pair.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    hashed = subprocess.run(
        [require_program("htpasswd"), "-nbBC", "8", "alice", "in wonderland"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (tmp_path / "web.yml").write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
        f"basic_auth_users:\n  {hashed.replace(':', ': ', 1)}\n"
    )
    daemon = RunningDaemon()
    try:
        daemon.start(f"--web.config.file={tmp_path}/web.yml")
        yield daemon
    finally:
        daemon.destroy()


def test_prometheus_gets_in_and_nobody_else(guarded: RunningDaemon, tmp_path: Path) -> None:
    """With certificate and password Prometheus scrapes; without the password everything is 401."""
    address = (guarded.run_dir / "metrics.addr").read_text().strip()
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    for place in ("/metrics", "/healthz", "/readyz", "/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"https://{address}{place}", timeout=10, context=context)
        with refused.value as answer:
            assert (answer.status, answer.read()) == (401, b"unauthorized\n")
    stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with pytest.raises(OSError):
        urllib.request.urlopen(f"https://{address}/metrics", timeout=10, context=stranger)

    job = (
        "    scheme: https\n"
        f"    tls_config: {{ca_file: '{tmp_path}/ca.crt', cert_file: '{tmp_path}/client.crt',"
        f" key_file: '{tmp_path}/client.key'}}\n"
        "    basic_auth: {username: alice, password: in wonderland}\n"
    )
    server = Prometheus(tmp_path, address, job)
    try:
        wait_until(lambda: server.query("aruntime_build_info"), 20, "a scrape over TLS")
        assert server.query("up")[0]["value"][1] == "1"
    finally:
        server.close()


def test_broken_configuration_is_one_line(tmp_path: Path) -> None:
    """A web configuration that cannot be used keeps the daemon from starting, and says why."""
    (tmp_path / "web.yml").write_text("basic_auth_users: {alice: secret}\n")
    daemon = RunningDaemon()
    try:
        done = subprocess.run(
            [
                sys.executable, "-m", "aruntime.daemon.main", f"--root={daemon.root}",
                f"--run-dir={daemon.run_dir}", f"--bridge={daemon.bridge}",
                f"--subnet={daemon.subnet}", f"--cgroup-parent={daemon.cgroup_parent}",
                "--metrics-address=127.0.0.1:0", f"--web.config.file={tmp_path}/web.yml",
                "--log-level=error",
            ],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"aruntimed: {tmp_path}/web.yml: the password of user alice")
    finally:
        daemon.destroy()
