"""The web configuration file: what is read of it, and every way in which it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.daemon.web.config import CIPHERS, read
from aruntime.errors import InvalidParameter

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
PAIR = "cert_file: a.crt\n  key_file: a.key"


def write(tmp_path: Path, text: str) -> Path:
    """A configuration file."""
    path = tmp_path / "web.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "tls_server_config:\n", "basic_auth_users: {}"]
)
def test_nothing_is_asked(tmp_path: Path, text: str) -> None:
    """An empty file, or one of empty sections, is a server that everybody may read."""
    config = read(write(tmp_path, text))
    assert config.tls_server_config is None
    assert config.basic_auth_users == {}
    assert config.rate_limit.seconds == 0


def test_everything_is_asked(tmp_path: Path) -> None:
    """Every field is read; files are relative to the configuration's own place."""
    config = read(
        write(
            tmp_path,
            f"""
tls_server_config:
  cert_file: server.crt
  key_file: /elsewhere/server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [scraper.example, 10.0.0.1]
  min_version: TLS13
  max_version: TLS13
  cipher_suites: [{", ".join(CIPHERS)}]
  prefer_server_cipher_suites: false
  curve_preferences: [X25519]
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    Strict-Transport-Security: max-age=31536000
basic_auth_users:
  alice: {HASH}
rate_limit:
  interval: 1m0.5s
  burst: 20
""",
        )
    )
    tls = config.tls_server_config
    assert tls is not None
    assert tls.files == (
        str(tmp_path / "server.crt"),
        "/elsewhere/server.key",
        str(tmp_path / "ca.crt"),
    )
    assert tls.client_allowed_sans == ("scraper.example", "10.0.0.1")
    assert not tls.prefer_server_cipher_suites
    assert config.basic_auth_users == {"alice": HASH}
    assert config.rate_limit.seconds == 60.5
    assert config.http_server_config.headers["X-Frame-Options"] == "deny"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid YAML"),
        ("- a", "Expected `object`"),
        ("users: {}", "unknown field `users`"),
        ("basic_auth_users: {alice: secret}", "htpasswd -nBC 10 alice"),
        (f"basic_auth_users: {{alice: '{HASH[:-1]}'}}", "no bcrypt hash"),
        ("basic_auth_users: {alice: 5}", "Expected `str`"),
        ("http_server_config: {headers: {X-Powered-By: us}}", "X-Powered-By cannot be set"),
        ("http_server_config: {headers: {X-Frame-Options: allow}}", "cannot be 'allow'"),
        (
            'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a"}}',
            "X-XSS-Protection cannot be",
        ),
        ("rate_limit: {interval: 1 hour}", "must be a duration"),
        ("rate_limit: {interval: 1s}", "burst of 1 or more"),
        ("rate_limit: {interval: -5, burst: 1}", "interval of 0 or more"),
        ("tls_server_config: {cert_file: a.crt}", "needs one of key and key_file"),
        ("tls_server_config: {key_file: a.key}", "needs one of cert and cert_file"),
        (f"tls_server_config:\n  {PAIR}\n  cert: x", "needs one of cert and cert_file"),
        (f"tls_server_config:\n  {PAIR}\n  client_auth_type: Any", "cannot be Any"),
        (
            f"tls_server_config:\n  {PAIR}\n  client_auth_type: RequireAnyClientCert",
            "would not verify the certificate",
        ),
        (
            f"tls_server_config:\n  {PAIR}\n  client_auth_type: VerifyClientCertIfGiven",
            "needs client_ca or client_ca_file",
        ),
        (f"tls_server_config:\n  {PAIR}\n  client_ca_file: ca", "needs client_auth_type"),
        (f"tls_server_config:\n  {PAIR}\n  client_allowed_sans: [a]", "client_allowed_sans needs"),
        (f"tls_server_config:\n  {PAIR}\n  min_version: SSL3", "there is no version SSL3"),
        (
            f"tls_server_config:\n  {PAIR}\n  min_version: TLS13\n  max_version: TLS12",
            "min_version is above max_version",
        ),
        (f"tls_server_config:\n  {PAIR}\n  cipher_suites: [ROT13]", "no cipher suite ROT13"),
        (f"tls_server_config:\n  {PAIR}\n  curve_preferences: [C]", "no curve C"),
        (
            f"tls_server_config:\n  {PAIR}\n  curve_preferences: [X25519, CurveP256]",
            "one curve only",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, said: str) -> None:
    """Each mistake names the file and what is wrong."""
    path = write(tmp_path, text)
    with pytest.raises(InvalidParameter) as raised:
        read(path)
    assert raised.value.message.startswith(str(path))
    assert said in raised.value.message


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is one line."""
    with pytest.raises(InvalidParameter, match=r"cannot read .*: no such file"):
        read(tmp_path / "missing.yml")
