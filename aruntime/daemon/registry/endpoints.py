"""Where a registry is: addresses to try, mirrors first, and what TLS each of them asks for.

``docker.io`` is at registry-1.docker.io. HTTPS with verified certificates is the rule; what else is
accepted of whom says :mod:`aruntime.daemon.registry.policy`. Certificates of a registry's own are
looked for in directories laid out as docker's certs.d (docs.docker.com, "Verify repository client
with certificates").
"""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple

from aruntime.daemon.registry.policy import Policy, is_insecure
from aruntime.errors import Unavailable
from aruntime.images.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"


class Endpoint(NamedTuple):
    """One address to try."""

    url: str
    """``https://host:port``, without a slash at the end."""
    host: str
    """``host:port`` as certs.d and credentials know it."""
    verified: bool
    """Whether certificates must be vouched for."""
    mirror: bool


def mirrors(domain: str, policy: Policy) -> list[Endpoint]:
    """Return the mirrors of a registry in the order they are to be tried, before itself."""
    found: list[Endpoint] = []
    for registry, url in policy.mirrors:
        if registry == domain:
            host = url.partition("://")[2]
            found.append(Endpoint(url, host, not is_insecure(host, policy), True))
    return found


def places(domain: str, policy: Policy) -> list[Endpoint]:
    """Return the addresses of a registry itself in the order they are to be tried."""
    host = HUB if domain == DEFAULT_DOMAIN else domain
    if not is_insecure(host, policy):
        return [Endpoint(f"https://{host}", host, True, False)]
    return [
        Endpoint(f"https://{host}", host, False, False),
        Endpoint(f"http://{host}", host, False, False),
    ]


def tls_context(endpoint: Endpoint, policy: Policy) -> ssl.SSLContext:
    """Return how to speak TLS to an endpoint; reads files.

    Raises:
        Unavailable: a certificate or key of certs.d cannot be used.
    """
    context = ssl.create_default_context()
    own = _load_own(context, endpoint, policy)
    if not endpoint.verified and not own:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, endpoint: Endpoint, policy: Policy) -> bool:
    """Load what certs.d has for a registry; return whether an authority was among it."""
    found = False
    for base in policy.certs:
        directory = f"{base}/{endpoint.host}"
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in names:
            path = f"{directory}/{name}"
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                    found = True
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, f"{path.removesuffix('.cert')}.key")
            except (OSError, ssl.SSLError) as error:
                reason = (getattr(error, "strerror", "") or str(error)).lower()
                raise Unavailable(f"cannot use certificate {path}: {reason}") from error
    return found
