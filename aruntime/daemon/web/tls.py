"""A TLS context made of a web configuration, and who a client's certificate says it is."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

from aruntime.daemon.web.config import CIPHERS, CURVES, TlsConfig
from aruntime.errors import InvalidParameter

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
VERIFY = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
SAN_KINDS = ("DNS", "email", "IP Address", "URI")


def context(config: TlsConfig) -> ssl.SSLContext:
    """Return a context for the server's side; reads the files it names, blocks.

    Raises:
        InvalidParameter: a file cannot be read or used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])
    made.options |= ssl.OP_NO_RENEGOTIATION
    if not config.prefer_server_cipher_suites:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        made.minimum_version = VERSIONS[config.min_version]
        made.maximum_version = VERSIONS[config.max_version]
        if config.cipher_suites:
            made.set_ciphers(":".join(CIPHERS[name] for name in config.cipher_suites))
        for curve in config.curve_preferences:
            made.set_ecdh_curve(CURVES[curve])
        _load(made, config)
    except FileNotFoundError as error:
        raise InvalidParameter(f"tls_server_config: no such file: {_missing(config)}") from error
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise InvalidParameter(
            f"tls_server_config: certificate, key or authority cannot be used:"
            f" {reason.lower().replace('_', ' ')}"
        ) from error
    except OSError as error:
        raise InvalidParameter(f"tls_server_config: cannot read a file: {error}") from error
    made.verify_mode = VERIFY[config.client_auth_type]
    return made


def names(certificate: Mapping[str, Any] | None) -> set[str]:
    """Return the Subject Alternative Names of a verified certificate (``getpeercert``)."""
    found: tuple[tuple[str, str], ...] = (certificate or {}).get("subjectAltName", ())
    return {value for kind, value in found if kind in SAN_KINDS}


def _load(made: ssl.SSLContext, config: TlsConfig) -> None:
    with (
        _named(config.cert_file, config.cert) as cert,
        _named(config.key_file, config.key) as key,
    ):
        # Without a password function OpenSSL would ask on the terminal for that of a locked key.
        made.load_cert_chain(cert, key, password=_no_password)
    if config.client_ca:
        made.load_verify_locations(cadata=config.client_ca)
    elif config.client_ca_file:
        made.load_verify_locations(cafile=config.client_ca_file)


def _no_password() -> str:
    raise ValueError("the key is locked with a password")


def _missing(config: TlsConfig) -> str:
    return next((path for path in config.files if not os.path.exists(path)), "a file it names")


@contextlib.contextmanager
def _named(path: str, text: str) -> Iterator[str]:
    """A path under which OpenSSL finds a file's content, be it given in the configuration."""
    if path:
        yield path
        return
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(fd, text.encode())
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
