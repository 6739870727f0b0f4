"""The web configuration file of Prometheus' exporters, read and checked.

The format is that of prometheus/exporter-toolkit, docs/web-configuration.md: TLS, response
headers, users with bcrypt passwords, a rate limit. What this server cannot do as the file asks
is an error with the reason, never silently less: a certificate that is asked for without being
verified, a list of curves. ``http2`` is read and makes no difference: HTTP/1.1 is spoken.

Out of scope: making a TLS context of it (tls), holding requests against it (access).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aruntime.errors import InvalidParameter

CLIENT_AUTH = ("NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert")
"""Policies that can be kept; the others of Go's list do not verify what they ask for."""
VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
"""Go's names of elliptic curves and OpenSSL's."""
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
"""Go's names of cipher suites up to TLS 1.2 and OpenSSL's."""
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""Headers that may be set, and their values where only some make sense."""
_BCRYPT = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
_BCRYPT_ROUNDS = range(4, 32)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tls_server_config``; the file's own names. Paths are relative to the file."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files it names."""
        return tuple(filter(None, (self.cert_file, self.key_file, self.client_ca_file)))


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``http_server_config``."""

    http2: bool = True
    headers: dict[str, str] = {}


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``rate_limit``: a token bucket for all requests together."""

    interval: str | int = 0
    """Go's form of the time between two requests, or nanoseconds; 0 is no limit."""
    burst: int = 0

    @property
    def seconds(self) -> float:
        """The interval, 0 for no limit."""
        if isinstance(self.interval, int):
            return self.interval / 1e9
        parts = _DURATION.findall(self.interval)
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)


class WebConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    tls_server_config: TlsConfig | None = None
    http_server_config: HttpConfig = HttpConfig()
    basic_auth_users: dict[str, str] = {}
    """Bcrypt hash of each user's password."""
    rate_limit: RateLimit = RateLimit()


def read(path: Path) -> WebConfig:
    """Read and check a web configuration file; blocks.

    Raises:
        InvalidParameter: it cannot be read or parsed, or asks for what is wrong or impossible.
    """
    import yaml  # only who has such a file pays for it

    try:
        with open(path, "rb") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise InvalidParameter(f"cannot read {path}: {str(error.strerror).lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path} is not valid YAML: {error}") from error
    try:
        config = msgspec.convert(_without_nulls(document), WebConfig)
        return _checked(config, path.parent)
    except (msgspec.ValidationError, InvalidParameter) as error:
        raise InvalidParameter(f"{path}: {error}") from None


def _without_nulls(document: Any) -> Any:
    """A section without content is as good as none, an empty file too."""
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        return document
    return {
        key: _without_nulls(value) if isinstance(value, Mapping) else value
        for key, value in document.items()
        if value is not None
    }


def _checked(config: WebConfig, directory: Path) -> WebConfig:
    for problem in _problems(config):
        raise InvalidParameter(problem)
    tls = config.tls_server_config
    if tls is None or tls == TlsConfig():
        return msgspec.structs.replace(config, tls_server_config=None)
    for problem in (*_authentication_problems(tls), *_protocol_problems(tls)):
        raise InvalidParameter(f"tls_server_config: {problem}")
    names = ("cert_file", "key_file", "client_ca_file")
    paths = {name: str(directory / path) for name in names if (path := getattr(tls, name))}
    settled = msgspec.structs.replace(tls, client_auth_type=_client_auth(tls), **paths)
    return msgspec.structs.replace(config, tls_server_config=settled)


def _problems(config: WebConfig) -> Iterator[str]:
    for name, value in config.http_server_config.headers.items():
        allowed = HEADERS.get(name)
        if allowed is None:
            yield f"the header {name} cannot be set; {', '.join(HEADERS)} can"
        elif (allowed and value not in allowed) or not value.isprintable():
            yield f"{name} cannot be {value!r}"
    for user, hashed in config.basic_auth_users.items():
        found = _BCRYPT.fullmatch(hashed)
        if found is None or int(found[1]) not in _BCRYPT_ROUNDS:
            advice = f"make one: htpasswd -nBC 10 {user}"
            yield f"the password of user {user} is no bcrypt hash; {advice}"
    limit = config.rate_limit
    if isinstance(limit.interval, str) and _DURATION.sub("", limit.interval) not in ("", "0"):
        yield f"rate_limit: interval must be a duration such as 1s, not {limit.interval}"
    elif limit.seconds < 0 or (limit.seconds and limit.burst < 1):
        yield "rate_limit: needs an interval of 0 or more and a burst of 1 or more"


def _client_auth(tls: TlsConfig) -> str:
    return tls.client_auth_type or "NoClientCert"


def _authentication_problems(tls: TlsConfig) -> Iterator[str]:
    for one, other in (("cert", "cert_file"), ("key", "key_file")):
        if bool(getattr(tls, one)) == bool(getattr(tls, other)):
            yield f"needs one of {one} and {other}"
    if tls.client_ca and tls.client_ca_file:
        yield "client_ca and client_ca_file exclude each other"
    auth = _client_auth(tls)
    if auth not in CLIENT_AUTH:
        yield (
            f"client_auth_type cannot be {auth}, which would not verify the certificate; use"
            f" {' or '.join(CLIENT_AUTH)}"
        )
    has_authority = bool(tls.client_ca or tls.client_ca_file)
    if has_authority and auth == "NoClientCert":
        yield "client_ca needs client_auth_type RequireAndVerifyClientCert"
    if not has_authority and auth != "NoClientCert":
        yield f"client_auth_type {auth} needs client_ca or client_ca_file"
    if tls.client_allowed_sans and auth != "RequireAndVerifyClientCert":
        yield "client_allowed_sans needs client_auth_type RequireAndVerifyClientCert"


def _protocol_problems(tls: TlsConfig) -> Iterator[str]:
    for version in (tls.min_version, tls.max_version):
        if version not in VERSIONS:
            yield f"there is no version {version}; there are {', '.join(VERSIONS)}"
            return
    if VERSIONS.index(tls.min_version) > VERSIONS.index(tls.max_version):
        yield "min_version is above max_version"
    for cipher in tls.cipher_suites:
        if cipher not in CIPHERS:
            yield f"there is no cipher suite {cipher} to choose"
    for curve in tls.curve_preferences:
        if curve not in CURVES:
            yield f"there is no curve {curve} to choose"
    if len(tls.curve_preferences) > 1:
        yield "curve_preferences can name one curve only, or none for all"
