"""Keys and certificates for servers of tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.conftest import require_program


class Signed(NamedTuple):
    """A key and its certificate, in PEM files."""

    key: Path
    certificate: Path


def authority(directory: Path, name: str = "tests") -> Signed:
    """Make a certificate authority."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Signed(directory / "ca.key", directory / "ca.crt")
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", f"/CN={name}", "-keyout", made.key, "-out", made.certificate,
        "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    return made


def server(directory: Path, by: Signed, usage: str = "serverAuth") -> Signed:
    """Make a certificate for a server at 127.0.0.1 (or a client of one), vouched for by an
    authority."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Signed(directory / f"{usage}.key", directory / f"{usage}.crt")
    request, extensions = directory / f"{usage}.csr", directory / f"{usage}.ext"
    extensions.write_text(
        f"subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n"
        "basicConstraints=CA:FALSE\n"
    )
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=127.0.0.1", "-keyout", made.key, "-out", request,
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-days", "2", "-in", request, "-CA", by.certificate, "-CAkey", by.key,
        "-set_serial", "2", "-extfile", extensions, "-out", made.certificate,
    )  # fmt: skip
    return made


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(
        [require_program("openssl"), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
