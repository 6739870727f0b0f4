"""An image as ``docker image inspect`` shows it. Pure."""

from __future__ import annotations

from typing import Any

from aruntime.daemon.health import check_object
from aruntime.daemon.log_reader import rfc3339_nano
from aruntime.images.image import Image, ImageConfig
from aruntime.images.untag import familiar

NEVER = "0001-01-01T00:00:00Z"


def moment(time_ns: int) -> str:
    """Return a time as docker's JSON has it, Go's zero time for never."""
    return rfc3339_nano(time_ns) if time_ns else NEVER


def image_object(image: Image) -> dict[str, Any]:
    """Return an image as ``docker image inspect`` shows it; our own members come last."""
    return {
        "Id": image.id,
        "RepoTags": [familiar(name) for name in image.names],
        "RepoDigests": [familiar(name) for name in image.digests],
        "Parent": "",
        "Comment": image.comment or (image.history[-1].comment if image.history else "") or "",
        "Created": moment(image.created_ns),
        "DockerVersion": "",
        "Author": image.author,
        "Config": image_config_object(image.config),
        "Architecture": image.architecture,
        **({"Variant": image.variant} if image.variant else {}),
        "Os": image.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Name": "overlay2", "Data": _graph(image.layers)},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Digest": image.digest,
    }


def _graph(layers: tuple[str, ...]) -> dict[str, str]:
    """Return the directories of the layers, the topmost apart as docker has it."""
    if not layers:
        return {}
    lower = {"LowerDir": ":".join(reversed(layers[:-1]))} if len(layers) > 1 else {}
    return {**lower, "UpperDir": layers[-1]}


def image_config_object(config: ImageConfig) -> dict[str, Any]:
    """Return how an image is started, as docker's JSON has it."""
    shown: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports} or None,
        "Env": list(config.env),
        "Cmd": list(config.cmd) or None,
        "Volumes": {path: {} for path in config.volumes} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": list(config.on_build) or None,
        "Labels": config.labels or None,
        "StopSignal": config.stop_signal,
    }
    if config.shell:
        shown["Shell"] = list(config.shell)
    if config.healthcheck is not None:
        given = check_object(config.healthcheck)
        shown["Healthcheck"] = {
            name: value for name, value in given.items() if value or name == "Test"
        }
    return shown
