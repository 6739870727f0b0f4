"""From parsed flags and an image to the configuration of a container.

Pure: what comes from outside (files, the caller's directory and environment, facts of the host)
is handed in as :class:`Request`. Every bad value raises ``InvalidParameter`` in docker's words.
Out of scope: reading those files and finding the image
(:mod:`aruntime.daemon.commands.run_request`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aruntime.container.config import ContainerConfig, LogOptions
from aruntime.container.seccomp import parse_profile
from aruntime.daemon.commands.flags import Parsed
from aruntime.daemon.commands.run_env import merge_env, parse_key_values
from aruntime.daemon.commands.run_health import requested_health
from aruntime.daemon.commands.run_limits import (
    DeviceNumbers,
    block_device_numbers,
    requested_resources,
)
from aruntime.daemon.commands.run_modes import requested_modes
from aruntime.daemon.commands.run_mounts import requested_mounts
from aruntime.daemon.commands.run_networks import FindNetwork, requested_publishing
from aruntime.daemon.commands.run_rate import check_network_rate
from aruntime.daemon.commands.run_values import parse_signal, parse_tenant
from aruntime.daemon.commands.values import parse_size
from aruntime.daemon.record import TENANT_LABEL
from aruntime.errors import InvalidParameter
from aruntime.images.image import Image, ImageConfig
from aruntime.spec import normalise_capabilities

DEFAULT_TENANT = "default"
DEFAULT_SHM_BYTES = 64 << 20
_LOG_DRIVERS = frozenset({"", "json-file", "local"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a container is made from besides its flags and its image."""

    container_id: str
    name: str
    created_ns: int
    cwd: str = "/"
    """The caller's directory, for relative sources of bind mounts."""
    env: Mapping[str, str] = field(default_factory=dict)
    """The caller's environment, for ``-e NAME`` without a value."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Content of every path that :func:`named_files` lists."""
    host_name: str = ""
    """Name of this host, which a container on its network keeps."""
    gateway: str = ""
    """What ``host-gateway`` means in ``--add-host``; empty: it has no meaning."""
    find_network: FindNetwork
    """Looks a network up by its name or id."""
    cpu_count: int = 1
    device_numbers: DeviceNumbers = block_device_numbers
    exists: Callable[[str], bool] = posixpath.exists
    """Whether a host path exists."""
    new_volume: Callable[[], str]
    """Makes the name of an anonymous volume."""


LOOKING = (
    "blkio-weight-device",
    "device",
    "device-read-bps",
    "device-read-iops",
    "device-write-bps",
    "device-write-iops",
    "mount",
    "volume",
)
"""Flags that name files of the host, which are looked at."""


def looks_at_host(parsed: Parsed) -> bool:
    """Whether :func:`container_config` looks at files of the host, which may block."""
    return not parsed.given.isdisjoint(LOOKING)


def named_files(parsed: Parsed) -> list[str]:
    """List the files that the flags name: to be read at the caller's rights."""
    profiles = [
        value
        for name, value in parsed["security-opt"]
        if name == "seccomp" and value not in {"unconfined", "builtin"}
    ]
    return [*parsed.strings("env-file"), *parsed.strings("label-file"), *profiles]


def container_config(
    parsed: Parsed, image: Image, request: Request
) -> tuple[ContainerConfig, list[str]]:
    """Return the configuration of a new container, and warnings for the user.

    Raises:
        InvalidParameter: a value is wrong, or two contradict each other.
    """
    modes = requested_modes(parsed, request.host_name, request.container_id, request.find_network)
    tenant, labels = _labels(parsed, image.config, request)
    security = _security(parsed, request)
    publishing, warnings = requested_publishing(
        parsed, image.config.exposed_ports, modes["network_mode"]
    )
    if parsed.boolean("rm") and parsed["restart"] and parsed["restart"].name != "no":
        raise InvalidParameter("conflicting options: cannot specify both --restart and --rm")
    config = ContainerConfig(
        id=request.container_id,
        name=request.name,
        created_ns=request.created_ns,
        image=parsed.args[0],
        image_id=image.id,
        image_digest=image.digest,
        layers=list(image.layers),
        labels=labels,
        tenant=tenant,
        annotations=parsed.mapping("annotation"),
        mounts=requested_mounts(
            parsed,
            image.config.volumes,
            cwd=request.cwd,
            exists=request.exists,
            new_volume=request.new_volume,
        ),
        health=requested_health(parsed, image.config.healthcheck),
        log=_log(parsed),
        resources=requested_resources(
            parsed, cpu_count=request.cpu_count, device_numbers=request.device_numbers
        ),
        cpu_request_milli=parsed.integer("cpu-request") // 1_000_000,
        network_rate_bits=parsed.integer("network-rate"),
        auto_remove=parsed.boolean("rm"),
        **({"restart": parsed["restart"]} if parsed["restart"] else {}),
        **_process(parsed, image.config, request),
        **_isolation(parsed),
        **_names(parsed, request),
        **modes,
        **publishing,
        **security,
    )
    _check_text(config)
    check_network_rate(config, config.network_rate_bits)
    return config, [*_warnings(config), *warnings]


def _process(parsed: Parsed, image: ImageConfig, request: Request) -> dict[str, Any]:
    """What runs: program, environment, directory, user, terminal, how it is stopped."""
    entrypoint, cmd = _command(parsed, image)
    if not [*entrypoint, *cmd]:
        raise InvalidParameter("no command specified; the image has none, so name one after it")
    working_dir = parsed.string("workdir") or image.working_dir or "/"
    if not working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{working_dir}' is invalid, it needs to be an absolute path"
        )
    attached = parsed.strings("attach")
    interactive = parsed.boolean("interactive")
    detached = parsed.values.get("detach", False)
    if detached and attached:
        raise InvalidParameter("conflicting options: cannot specify both --attach and --detach")
    score = parsed.integer("oom-score-adj")
    if not -1000 <= score <= 1000:
        raise InvalidParameter(f"invalid value {score}, range for oom score adj is [-1000, 1000]")
    return {
        "args": [*entrypoint, *cmd],
        "entrypoint": entrypoint,
        "cmd": cmd,
        "env": _env(parsed, image, request),
        "working_dir": "/" + posixpath.normpath(working_dir).lstrip("/"),
        "user": _user(parsed, image),
        "group_add": parsed.strings("group-add"),
        "tty": parsed.boolean("tty"),
        "open_stdin": interactive,
        "stdin_once": interactive and not detached and (not attached or "stdin" in attached),
        "oom_score_adj": score,
        "init": parsed.boolean("init"),
        "ulimits": list({limit.name: limit for limit in parsed["ulimit"]}.values()),
        **_stop(parsed, image),
    }


def _command(parsed: Parsed, image: ImageConfig) -> tuple[list[str], list[str]]:
    """An entrypoint of the user's own also drops the image's CMD; an empty one is none."""
    cmd = parsed.args[1:]
    if "entrypoint" in parsed.given:
        entrypoint = parsed.string("entrypoint")
        return ([entrypoint] if entrypoint else []), cmd
    return list(image.entrypoint), cmd or list(image.cmd)


def _env(parsed: Parsed, image: ImageConfig, request: Request) -> list[str]:
    lines: list[str] = []
    for path in parsed.strings("env-file"):
        lines += parse_key_values(path, request.files[path], request.env)
    return merge_env(image.env, [*lines, *parsed.strings("env")], request.env)


def _user(parsed: Parsed, image: ImageConfig) -> str:
    user = parsed.string("user") or image.user
    if user.count(":") > 1 or any(c.isspace() or c == "\0" for c in user):
        raise InvalidParameter(f"invalid user {user!r}: use name or uid, and :group or :gid")
    return user


def _stop(parsed: Parsed, image: ImageConfig) -> dict[str, Any]:
    signal = parsed.string("stop-signal") or image.stop_signal or "SIGTERM"
    try:
        parse_signal(signal)
    except ValueError as error:
        raise InvalidParameter(f"{error}; use a name such as SIGTERM or a number") from None
    timeout = parsed.integer("stop-timeout")
    if timeout < -1:
        raise InvalidParameter(f"invalid stop timeout {timeout}: use seconds, or -1 to wait on")
    given = "stop-timeout" in parsed.given
    return {"stop_signal": signal, **({"stop_timeout": timeout} if given else {})}


def _labels(parsed: Parsed, image: ImageConfig, request: Request) -> tuple[str, dict[str, str]]:
    """Return tenant and labels; an image cannot say who pays."""
    labels = {key: value for key, value in image.labels.items() if key != TENANT_LABEL}
    for path in parsed.strings("label-file"):
        for line in parse_key_values(path, request.files[path], None):
            key, _, value = line.partition("=")
            labels[key] = value
    labels |= parsed.mapping("label")
    if parsed.string("tenant"):
        labels[TENANT_LABEL] = parsed.string("tenant")
    tenant = labels.get(TENANT_LABEL, DEFAULT_TENANT)
    try:
        return parse_tenant(tenant), labels
    except ValueError as error:
        raise InvalidParameter(f"invalid label {TENANT_LABEL}={tenant!r}: {error}") from None


def _isolation(parsed: Parsed) -> dict[str, Any]:
    capabilities = {}
    for flag, shown in (("cap-add", "CapAdd"), ("cap-drop", "CapDrop")):
        try:
            capabilities[flag.replace("-", "_")] = normalise_capabilities(parsed.strings(flag))
        except ValueError as error:
            raise InvalidParameter(f"invalid {shown}: {error}; see capabilities(7)") from None
    return {
        **capabilities,
        "privileged": parsed.boolean("privileged"),
        "read_only": parsed.boolean("read-only"),
        "devices": list({device.target: device for device in parsed["device"]}.values()),
        "device_cgroup_rules": parsed.strings("device-cgroup-rule"),
        "sysctls": dict(parsed["sysctl"]),
        "shm_size": parsed.integer("shm-size") or DEFAULT_SHM_BYTES,
    }


def _security(parsed: Parsed, request: Request) -> dict[str, Any]:
    """Read ``--security-opt``; what is off on this host may be switched off."""
    found: dict[str, Any] = {}
    for name, value in parsed["security-opt"]:
        if name == "no-new-privileges":
            found["no_new_privileges"] = value == "true"
        elif name == "seccomp":
            found["seccomp"] = _seccomp(value, request)
        elif name == "systempaths" and value == "unconfined":
            found["systempaths_unconfined"] = True
        elif (name, value) not in {("apparmor", "unconfined"), ("label", "disable")}:
            raise InvalidParameter(
                f"--security-opt {name}={value} is not supported: this release has no "
                "AppArmor and SELinux profiles, only seccomp"
            )
    return found


def _seccomp(value: str, request: Request) -> str:
    if value in {"builtin", "unconfined"}:
        return "" if value == "builtin" else value
    text = request.files[value].decode(errors="replace")
    try:
        parse_profile(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"opening seccomp profile ({value}) failed: {error}") from None
    return text


def _log(parsed: Parsed) -> LogOptions:
    """Read the log options that docker's json-file driver has in common with ours."""
    driver, options = parsed.string("log-driver"), parsed.mapping("log-opt")
    if driver not in _LOG_DRIVERS:
        if options and driver == "none":
            raise InvalidParameter("invalid logging opts for driver none")
        raise InvalidParameter(
            f"log driver '{driver}' is not supported: logs are kept here, use json-file"
        )
    unknown = sorted(set(options) - {"max-size", "max-file", "mode"})
    if unknown:
        raise InvalidParameter(
            f"unknown log opt '{unknown[0]}' for json-file log driver; "
            "use max-size, max-file or mode"
        )
    try:
        size = parse_size(options["max-size"]) if "max-size" in options else 0
    except ValueError as error:
        raise InvalidParameter(f"log opt max-size: {error}") from None
    files = options.get("max-file", "1")
    if not files.isdecimal() or not 1 <= int(files) <= 1000:
        raise InvalidParameter(f"max-file must be a number from 1 to 1000, got {files!r}")
    if "max-size" in options and size <= 0:
        raise InvalidParameter("max-size must be a positive number")
    if int(files) > 1 and not size:
        raise InvalidParameter("max-file needs max-size: without it a log is never rotated")
    mode = options.get("mode", "blocking")
    if mode not in {"blocking", "non-blocking"}:
        raise InvalidParameter(f"log mode {mode!r} is not known: use blocking or non-blocking")
    return LogOptions(max_size=size, max_file=int(files), mode=mode)


def _names(parsed: Parsed, request: Request) -> dict[str, Any]:
    """What /etc/hosts and /etc/resolv.conf are made from."""
    hosts = []
    for name, address in parsed["add-host"]:
        if address == "host-gateway":
            if not request.gateway:
                raise InvalidParameter(
                    f"unable to derive the IP value for host-gateway of {name}: "
                    "there is no bridge; give an address"
                )
            address = request.gateway
        hosts.append(f"{name}:{address}")
    return {
        "dns": parsed.strings("dns"),
        "dns_search": parsed.strings("dns-search"),
        "dns_options": parsed.strings("dns-option"),
        "extra_hosts": hosts,
    }


def _check_text(config: ContainerConfig) -> None:
    """Refuse bytes that are no UTF-8: the records on disk, the API and metrics are text.

    Such bytes of an argument arrive as lone surrogates (PEP 383).
    """
    try:
        msgspec.json.encode(config)
    except UnicodeEncodeError as error:
        shown = error.object.encode(errors="backslashreplace").decode()
        raise InvalidParameter(f"an argument is not valid UTF-8: {shown}") from None


def _warnings(config: ContainerConfig) -> list[str]:
    memory = config.resources.get("memory", {})
    if memory.get("disableOOMKiller") and not memory.get("limit"):
        return [
            "OOM killer is disabled for the container, but no memory limit is set, this can "
            "result in the system running out of resources"
        ]
    return []
