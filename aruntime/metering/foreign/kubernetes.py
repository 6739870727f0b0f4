"""What the kubelet leaves on a node about a container: the name of its log's link.

``/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log``, made for log collectors. Labels and images
are in the API server and in the runtime's memory only; asking either is left to those who have the
rights. Pods' sandboxes have no link.
"""

from __future__ import annotations

import glob
import os

from aruntime.metering.foreign.known import Known

DEFAULT_ROOT = "/var/log/containers"

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
"""Labels as kubelet itself gives them to its runtime."""
QOS = "io.kubernetes.pod.qos"


def read(state: str, container_id: str) -> Known | None:
    """Return the names of a container, None if there is no link to its log (yet)."""
    found = glob.glob(f"{glob.escape(state)}/*_*_*-{container_id}.log")
    if not found:
        return None
    # Neither of the three may hold an underscore (RFC 1123 names).
    pod, _, rest = os.path.basename(found[0]).partition("_")
    namespace, _, last = rest.partition("_")
    container = last.removesuffix(f"-{container_id}.log")
    return Known(
        name=f"{namespace}/{pod}/{container}",
        labels={POD_NAME: pod, POD_NAMESPACE: namespace, CONTAINER_NAME: container},
    )
