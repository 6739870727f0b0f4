"""What aruntimed was told: flags, environment, configuration file, defaults, in this order.

The configuration file is TOML; its keys are the names of the flags, dots written as dashes. A key
or value that is wrong is an error that names the file and the key, never ignored. Pure apart from
reading that one file; acting on the settings is :mod:`aruntime.daemon.main`'s.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from aruntime.daemon import ledger_settings
from aruntime.daemon.commands.flags import Flag, Parsed
from aruntime.daemon.ledger_settings import LedgerSettings
from aruntime.daemon.readers import Reader, parse_readers
from aruntime.daemon.registry.policy import CERTS_DIRECTORIES, Policy, parse_mirror
from aruntime.errors import InvalidParameter
from aruntime.metering.foreign import identity, patterns
from aruntime.metering.foreign.patterns import Pattern

DEFAULT_CONFIG = "/etc/aruntime/config.toml"
EXPORTS = "export"
"""Key of the tables of push exporters; only the configuration file has them."""
SUN_PATH_BYTES = 107
"""Longest pathname of a Unix socket (sockaddr_un)."""
ENVIRONMENT = {
    "root": "ARUNTIME_ROOT",
    "run-dir": "ARUNTIME_RUN_DIR",
    "config": "ARUNTIME_CONFIG",
}
COMMAND_LINE_ONLY = frozenset({"config", "ready-fd"})
RELOADABLE = (
    "log_format", "log_level", "poll_interval", "prices", "slow_interval", "stop_containers",
)  # fmt: skip
"""Settings that SIGHUP changes in a running daemon; the others need a restart."""

FLAGS = (
    Flag(
        "root", "", "string", ledger_settings.DEFAULT_ROOT, "DIR",
        "Images, containers, volumes, the ledger",
    ),
    Flag("run-dir", "", "string", "/run/aruntime", "DIR", "Sockets and process ids"),
    Flag("socket", "", "string", None, "PATH", "Command socket (default RUN_DIR/aruntime.sock)"),
    Flag("socket-group", "", "string", None, "GROUP", "Group that may use the command socket"),
    Flag(
        "tenant-reader", "", "list", None, "TENANT=USER|@GROUP",
        "Let a user or a group look at a tenant's containers, and change nothing",
    ),
    Flag(
        "metrics-address", "", "string", "127.0.0.1:9640", "HOST:PORT",
        "Where Prometheus scrapes; port 0 takes a free one, 'none' switches it off",
    ),
    Flag(
        "web.config.file", "", "string", None, "FILE",
        "TLS and users of the metrics address, in the format of Prometheus' exporters",
    ),
    Flag("poll-interval", "", "string", "1", "SECONDS", "Period of the billed readings"),
    Flag("slow-interval", "", "string", "10", "SECONDS", "Period of all other readings"),
    *ledger_settings.FLAGS,
    Flag(
        "prices", "", "string", None, "FILE",
        "Price book to put in force at start (SIGHUP reads it again)",
    ),
    Flag("config", "", "string", DEFAULT_CONFIG, "FILE", "Configuration file (TOML)"),
    Flag(
        "log-format", "", "choice", "console", "console|json", "Format of the daemon's log",
        choices=("console", "json"),
    ),
    Flag(
        "log-level", "", "choice", "info", "LEVEL", "debug, info, warning or error",
        choices=("debug", "info", "warning", "error"),
    ),
    Flag("bridge", "", "string", "aruntime0", "NAME", "Bridge of the default network"),
    Flag("subnet", "", "string", "172.29.0.0/16", "CIDR", "Addresses of the default network"),
    Flag("cgroup-parent", "", "string", "/aruntime", "PATH", "Where containers' cgroups are made"),
    Flag(
        "meter-cgroups", "", "list", None, "PATTERN",
        "Meter cgroups of other programs too: /docker is the containers below it, /batch/* what "
        "fits, =/batch/a that one; commas separate, may be repeated",
    ),
    Flag(
        "meter-state", "", "map", None, "ENGINE=DIR",
        "Where docker, podman or kubernetes keep their files, if not where they are configured to",
    ),
    Flag(
        "insecure-registry", "", "list", None, "HOST",
        "Accept plain HTTP and any certificate of this registry (HOST[:PORT] or a network)",
    ),
    Flag(
        "registry-mirror", "", "list", None, "[REGISTRY=]URL",
        "Ask this mirror first (of docker.io, if no registry is named)",
    ),
    Flag(
        "certs-dir", "", "string", None, "DIR",
        "Certificates of registries, laid out as docker's certs.d (default /etc/aruntime/certs.d,"
        " then docker's and podman's)",
    ),
    Flag("stop-containers", "", "bool", None, "", "Stop all containers when the daemon stops"),
    Flag("ready-fd", "", "int", -1, "FD", "Gets a line when the socket answers", hidden=True),
)  # fmt: skip
"""The flags of `aruntimed` and of `aruntime daemon`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's settings, checked; paths are absolute."""

    root: Path
    run_dir: Path
    socket: Path
    socket_group: str = ""
    readers: tuple[Reader, ...] = ()
    """Who may look at tenants' containers."""
    metrics_address: str = "127.0.0.1:9640"
    """``HOST:PORT`` or ``none``."""
    web_config: Path | None = None
    """TLS and users of that address, None for neither."""
    ledger: LedgerSettings = LedgerSettings()
    poll_interval: float = 1.0
    """Seconds."""
    slow_interval: float = 10.0
    """Seconds."""
    prices: Path | None = None
    """Price book to put in force, None to keep the one that is."""
    config: Path = Path(DEFAULT_CONFIG)
    log_format: str = "console"
    log_level: str = "info"
    bridge: str = "aruntime0"
    subnet: str = "172.29.0.0/16"
    cgroup_parent: str = "/aruntime"
    meter_cgroups: tuple[Pattern, ...] = ()
    """Cgroups of other programs that are metered."""
    meter_states: dict[str, str] = {}
    """Where those programs keep their files, by program, if not at their usual place."""
    registries: Policy = Policy()
    exports: dict[str, dict[str, Any]] = {}
    """Tables of push exporters in the configuration file, by name."""
    stop_containers: bool = False


def load(parsed: Parsed, environ: Mapping[str, str]) -> Settings:
    """Put the settings together.

    Args:
        parsed: the command line, parsed with FLAGS.
        environ: the environment (ENVIRONMENT has the names that count).

    Raises:
        InvalidParameter: a value is wrong, or the file is; the message says where.
    """
    named = "config" in parsed.given or bool(environ.get(ENVIRONMENT["config"]))
    given = parsed.string("config") if "config" in parsed.given else ""
    config = _path(given or environ.get(ENVIRONMENT["config"]) or DEFAULT_CONFIG, "--config")
    try:
        in_file = read_config(config)
    except FileNotFoundError:
        if named:
            raise InvalidParameter(f"cannot read {config}: no such file") from None
        in_file = {}
    exports = in_file.pop(EXPORTS, {})
    chosen: dict[str, tuple[Any, str]] = {}
    for flag in FLAGS:
        name = flag.name
        if name == "ready-fd":
            continue
        if name in parsed.given:
            chosen[name] = (parsed[name], f"--{name}")
        elif environ.get(ENVIRONMENT.get(name, "")):
            chosen[name] = (environ[ENVIRONMENT[name]], ENVIRONMENT[name])
        elif name in in_file:
            chosen[name] = (in_file[name], f"{config}: {name}")
        else:
            chosen[name] = (parsed[name], f"--{name}")
    return msgspec.structs.replace(_checked(chosen), exports=exports)


def reloaded(current: Settings, fresh: Settings) -> Settings:
    """Take over from a fresh reading what may change at run time (RELOADABLE)."""
    changes = {field: getattr(fresh, field) for field in RELOADABLE}
    return msgspec.structs.replace(current, **changes)


def needs_restart(current: Settings, fresh: Settings) -> list[str]:
    """Names of the settings that differ and that a reload does not change."""
    fields = (field for field in Settings.__struct_fields__ if field not in RELOADABLE)
    return [
        field.replace("_", "-")
        for field in fields
        if getattr(current, field) != getattr(fresh, field)
    ]


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration file; values get the type their flag has.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidParameter: it cannot be read or parsed, or a key is unknown.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidParameter(f"cannot read {path}: {str(error.strerror).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path} is not valid TOML: {error}") from error
    settable = (flag for flag in FLAGS if flag.name not in COMMAND_LINE_ONLY)
    known = {flag.name.replace(".", "-"): flag for flag in settable}  # a dot would make a table
    values: dict[str, Any] = {EXPORTS: _export_tables(table.pop(EXPORTS, {}), path)}
    for key, value in table.items():
        if key not in known:
            names = ", ".join(sorted([*known, EXPORTS]))
            raise InvalidParameter(f"{path}: unknown key '{key}'; known are {names}")
        values[known[key].name] = _config_value(known[key], value, f"{path}: {key}")
    return values


def _export_tables(value: object, path: Path) -> dict[str, dict[str, Any]]:
    """The tables ``[export.NAME]``; what is in them their exporters check."""
    if not isinstance(value, dict) or not all(isinstance(row, dict) for row in value.values()):
        raise InvalidParameter(f"{path}: {EXPORTS} must be tables such as [{EXPORTS}.openmeter]")
    return value


def _config_value(flag: Flag, value: object, where: str) -> Any:
    if flag.kind == "bool":
        if not isinstance(value, bool):
            raise InvalidParameter(f"{where} must be true or false")
        return value
    if flag.kind == "list" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    if flag.kind == "map":
        if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            return value
        raise InvalidParameter(f"{where} must be a table of strings")
    if flag.name.endswith(("-interval", "-retention")) and isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        kinds = "a string or a list of strings" if flag.kind == "list" else "a string"
        raise InvalidParameter(f"{where} must be {kinds}")
    if flag.kind == "list":
        return [value]
    if flag.choices and value not in flag.choices:
        raise InvalidParameter(f"{where} must be one of {', '.join(flag.choices)}")
    return value


def _checked(chosen: dict[str, tuple[Any, str]]) -> Settings:
    """Turn (value, where it came from) by flag name into settings."""
    run_dir = _path(*chosen["run-dir"])
    socket = _path(*chosen["socket"]) if chosen["socket"][0] else run_dir / "aruntime.sock"
    for path, where in ((run_dir / "aruntime.sock", "run-dir"), (socket, "socket")):
        if len(os.fsencode(path)) > SUN_PATH_BYTES:
            raise InvalidParameter(
                f"{chosen[where][1]}: the path of a socket is limited to {SUN_PATH_BYTES} bytes"
                f", {path} is longer"
            )
    return Settings(
        root=_path(*chosen["root"]),
        run_dir=run_dir,
        socket=socket,
        socket_group=chosen["socket-group"][0],
        readers=_readers(*chosen["tenant-reader"]),
        metrics_address=_address(*chosen["metrics-address"]),
        web_config=_path(*chosen["web.config.file"]) if chosen["web.config.file"][0] else None,
        ledger=ledger_settings.checked(chosen, _path(*chosen["root"])),
        prices=_path(*chosen["prices"]) if chosen["prices"][0] else None,
        poll_interval=_seconds(*chosen["poll-interval"]),
        slow_interval=_seconds(*chosen["slow-interval"]),
        config=_path(*chosen["config"]),
        log_format=chosen["log-format"][0],
        log_level=chosen["log-level"][0],
        bridge=_interface(*chosen["bridge"]),
        subnet=_subnet(*chosen["subnet"]),
        cgroup_parent=_cgroup_path(*chosen["cgroup-parent"]),
        meter_cgroups=_patterns(*chosen["meter-cgroups"]),
        meter_states=_states(*chosen["meter-state"]),
        registries=_registries(chosen),
        stop_containers=chosen["stop-containers"][0],
    )


def _path(text: str, where: str) -> Path:
    if not text or "\n" in text:
        raise InvalidParameter(f"{where} needs a path")
    return Path(os.path.abspath(text))


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 3600:
        raise InvalidParameter(f"{where} must be a number of seconds from 0.05 to 3600, not {text}")
    return seconds


def _address(text: str, where: str) -> str:
    host, colon, port = text.rpartition(":")
    if text == "none" or (colon and port.isdigit() and int(port) < 1 << 16 and "/" not in host):
        return text
    raise InvalidParameter(f"{where} must be HOST:PORT or none, not {text}")


def _readers(texts: list[str], where: str) -> tuple[Reader, ...]:
    try:
        return parse_readers(texts)
    except InvalidParameter as error:
        raise InvalidParameter(f"{where}: {error.message}") from None


def _interface(text: str, where: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) and text not in (".", ".."):
        return text
    raise InvalidParameter(
        f"{where} must be an interface name of 1 to 15 letters, digits, '_', '.' or '-', not {text}"
    )


def _subnet(text: str, where: str) -> str:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidParameter(f"{where} must be an IPv4 network: {error}") from None
    if network.prefixlen > 29:
        raise InvalidParameter(f"{where}: {text} has no room for containers; use /29 or wider")
    return text


def _cgroup_path(text: str, where: str) -> str:
    names = text.split("/")
    if names[0] or len(names) < 2 or any(name in ("", ".", "..") for name in names[1:]):
        raise InvalidParameter(f"{where} must be an absolute path such as /aruntime, not {text}")
    return text


def _patterns(texts: list[str], where: str) -> tuple[Pattern, ...]:
    try:
        return patterns.parse_all(texts)
    except InvalidParameter as error:
        raise InvalidParameter(f"{where}: {error}") from None


def _states(given: dict[str, str], where: str) -> dict[str, str]:
    try:
        return identity.checked(given)
    except InvalidParameter as error:
        raise InvalidParameter(f"{where}: {error}") from None


def _registries(chosen: dict[str, tuple[Any, str]]) -> Policy:
    mirrors, where = chosen["registry-mirror"]
    try:
        parsed = tuple(map(parse_mirror, mirrors))
    except InvalidParameter as error:
        raise InvalidParameter(f"{where}: {error.message}") from None
    own = chosen["certs-dir"][0]
    return Policy(
        insecure=tuple(chosen["insecure-registry"][0]),
        mirrors=parsed,
        certs=(str(_path(own, chosen["certs-dir"][1])),) if own else CERTS_DIRECTORIES,
    )
