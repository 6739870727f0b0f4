"""What the settings say of registries: the insecure ones, mirrors, where certificates are.

Plain HTTP and certificates nobody vouches for are accepted of the loopback and of registries that
the settings call insecure, as docker does. Pure, and light: the client reads settings too.
"""

from __future__ import annotations

import contextlib
import ipaddress

import msgspec

from aruntime.errors import InvalidParameter
from aruntime.images.reference import DEFAULT_DOMAIN

CERTS_DIRECTORIES = ("/etc/aruntime/certs.d", "/etc/docker/certs.d", "/etc/containers/certs.d")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say of registries."""

    insecure: tuple[str, ...] = ()
    """``HOST``, ``HOST:PORT`` or a network (``10.0.0.0/8``)."""
    mirrors: tuple[tuple[str, str], ...] = ()
    """Registry and the URL of a mirror of it, in the order they are tried."""
    certs: tuple[str, ...] = CERTS_DIRECTORIES


def parse_mirror(text: str) -> tuple[str, str]:
    """Read ``URL`` (a mirror of docker.io) or ``REGISTRY=URL``.

    Raises:
        InvalidParameter: it is neither.
    """
    registry, equals, url = text.partition("=")
    if not equals or "://" in registry:
        registry, url = DEFAULT_DOMAIN, text
    scheme, separator, rest = url.partition("://")
    host = rest.rstrip("/")
    if scheme not in ("http", "https") or not separator or not host or set(host) & set("/?#@ "):
        raise InvalidParameter(
            f"invalid registry mirror {text!r}: it must be [REGISTRY=]http[s]://HOST[:PORT]"
        )
    return registry, f"{scheme}://{host}"


def is_insecure(host: str, policy: Policy) -> bool:
    """Whether plain HTTP and unknown certificates are accepted of a host."""
    name = host_name(host)
    if name == "localhost" or host in policy.insecure or name in policy.insecure:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    for text in policy.insecure:
        with contextlib.suppress(ValueError):
            if address in ipaddress.ip_network(text):
                return True
    return False


def host_name(host: str) -> str:
    """Return the name or address of ``HOST[:PORT]``, without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
