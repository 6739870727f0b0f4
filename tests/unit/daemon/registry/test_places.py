"""Where a registry is looked for, and whom what is accepted of."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from aruntime.daemon.registry import endpoints
from aruntime.daemon.registry.endpoints import Endpoint
from aruntime.daemon.registry.policy import Policy, is_insecure, parse_mirror
from aruntime.errors import InvalidParameter, Unavailable
from tests import certificates

STRICT = Policy(insecure=("lab", "plain.example:5000", "10.1.0.0/16", "fd00::/8"))


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("registry.example", False),
        ("registry.example:5000", False),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("lab:5000", True),
        ("plain.example:5000", True),
        ("plain.example", False),
        ("10.1.2.3:5000", True),
        ("10.2.2.3:5000", False),
        ("[fd00::1]:5000", True),
        ("localhost.example", False),
    ],
)
def test_who_is_insecure(host: str, insecure: bool) -> None:
    """The loopback, and who is named: by name, with or without port, or by network."""
    assert is_insecure(host, STRICT) == insecure


def test_plain_http_is_for_the_insecure_alone() -> None:
    """A registry that nobody called insecure is asked by HTTPS, its certificate verified."""
    assert endpoints.places("registry.example", STRICT) == [
        Endpoint("https://registry.example", "registry.example", True, False)
    ]
    assert [place.url for place in endpoints.places("docker.io", STRICT)] == [
        "https://registry-1.docker.io"
    ]
    assert endpoints.places("lab", STRICT) == [
        Endpoint("https://lab", "lab", False, False),
        Endpoint("http://lab", "lab", False, False),
    ]


def test_mirrors_are_of_one_registry() -> None:
    """In the order they were named; of docker.io if no registry is."""
    policy = Policy(
        mirrors=(
            parse_mirror("http://127.0.0.1:5000/"),
            parse_mirror("quay.io=https://mirror.example"),
        )
    )

    assert [one.url for one in endpoints.mirrors("docker.io", policy)] == ["http://127.0.0.1:5000"]
    assert endpoints.mirrors("quay.io", policy) == [
        Endpoint("https://mirror.example", "mirror.example", True, True)
    ]
    for text in ("mirror.example", "ftp://mirror.example", "https://", "https://a/b", "a=b"):
        with pytest.raises(InvalidParameter, match="invalid registry mirror"):
            parse_mirror(text)


def test_certificates_are_verified_unless_nobody_could(tmp_path: Path) -> None:
    """An authority of its own makes even an insecure registry's certificate count."""
    policy = Policy(insecure=("lab",), certs=(str(tmp_path),))
    [strict] = endpoints.places("registry.example", policy)
    lab = endpoints.places("lab", policy)[0]

    assert endpoints.tls_context(strict, policy).verify_mode == ssl.CERT_REQUIRED
    assert endpoints.tls_context(lab, policy).verify_mode == ssl.CERT_NONE

    made = certificates.authority(tmp_path / "made")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/ca.crt").write_bytes(made.certificate.read_bytes())
    assert endpoints.tls_context(lab, policy).verify_mode == ssl.CERT_REQUIRED
    (tmp_path / "lab/client.cert").write_bytes(made.certificate.read_bytes())
    with pytest.raises(Unavailable, match=r"cannot use certificate .*/lab/client.cert"):
        endpoints.tls_context(lab, policy)
