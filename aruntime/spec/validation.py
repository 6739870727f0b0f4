"""Checks a config.json that somebody else wrote, field by field, before anything is done with it.

What the runtime-spec 1.1 demands and what would be dangerous or silently without effect here.
Unknown members are allowed, as the specification has it (config.md, "Extensibility"). Whether
this host can do what a valid spec asks is found out later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aruntime.errors import InvalidSpec
from aruntime.spec.mounts import is_forbidden_target

NAMESPACES = frozenset({"mount", "uts", "ipc", "pid", "network", "cgroup", "user", "time"})
PROPAGATIONS = frozenset(
    {"shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"}
)
CAPABILITY_SETS = frozenset({"bounding", "effective", "permitted", "inheritable", "ambient"})
SECCOMP_ACTIONS = frozenset(
    {
        "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP",
        "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY",
    }
)  # fmt: skip
SECCOMP_OPERATORS = frozenset(
    {
        "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
        "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
    }
)  # fmt: skip
HOOKS = frozenset(
    {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
)
_RLIMIT = re.compile(r"RLIMIT_[A-Z]+")
_UINT64 = 1 << 64
_ID = 1 << 32
_INT64 = 1 << 63

Check = Callable[[str, Any], None]
"""``check(field, value)``; raises InvalidSpec naming the field."""


def validate(spec: Any) -> None:
    """Check a whole specification.

    Raises:
        InvalidSpec: ``field: reason``, the first thing that is wrong.
    """
    _object("config", spec)
    _need("config", spec, "ociVersion", _version)
    _need("config", spec, "root", _root)
    _maybe("config", spec, "process", _process)
    for name in ("hostname", "domainname"):
        _maybe("config", spec, name, _host_name)
    _maybe("config", spec, "mounts", _list_of(_mount))
    _maybe("config", spec, "annotations", _annotations)
    _maybe("config", spec, "hooks", _hooks)
    _maybe("config", spec, "linux", _linux)
    _cross_check(spec)


def fail(field: str, reason: str) -> NoReturn:
    """Refuse a field."""
    raise InvalidSpec(f"{field}: {reason}")


def _object(field: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        fail(field, f"must be an object, got {value!r}")


def _text(field: str, value: Any) -> None:
    if not isinstance(value, str) or "\0" in value:
        fail(field, f"must be text without NUL bytes, got {value!r}")


def _filled(field: str, value: Any) -> None:
    _text(field, value)
    if not value:
        fail(field, "must not be empty")


def _flag(field: str, value: Any) -> None:
    if not isinstance(value, bool):
        fail(field, f"must be true or false, got {value!r}")


def _absolute(field: str, value: Any) -> None:
    _text(field, value)
    if not value.startswith("/"):
        fail(field, f"must be an absolute path, got {value!r}")


def _number(least: int, most: int) -> Check:
    def check(field: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            fail(field, f"must be a whole number from {least} to {most}, got {value!r}")

    return check


def _one_of(values: frozenset[str]) -> Check:
    def check(field: str, value: Any) -> None:
        if not isinstance(value, str) or value not in values:
            fail(field, f"must be one of {', '.join(sorted(values))}, got {value!r}")

    return check


def _list_of(check: Check) -> Check:
    def check_all(field: str, value: Any) -> None:
        if not isinstance(value, list):
            fail(field, f"must be a list, got {value!r}")
        for index, item in enumerate(value):
            check(f"{field}[{index}]", item)

    return check_all


def _map_of(check: Check) -> Check:
    def check_all(field: str, value: Any) -> None:
        _object(field, value)
        for key, item in value.items():
            check(f"{field}.{key}", item)

    return check_all


def _record(needed: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    def check(field: str, value: Any) -> None:
        _object(field, value)
        for name, inner in needed.items():
            _need(field, value, name, inner)
        for name, inner in optional.items():
            _maybe(field, value, name, inner)

    return check


def _path(field: str, name: str) -> str:
    return name if field == "config" else f"{field}.{name}"


def _need(field: str, value: Mapping[str, Any], name: str, check: Check) -> None:
    if value.get(name) is None:
        fail(_path(field, name), "is missing")
    check(_path(field, name), value[name])


def _maybe(field: str, value: Mapping[str, Any], name: str, check: Check) -> None:
    if value.get(name) is not None:
        check(_path(field, name), value[name])


def _version(field: str, value: Any) -> None:
    _text(field, value)
    if not re.fullmatch(r"1\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?", value):
        fail(field, f"must be 1.x.y, got {value!r}")


_root = _record({"path": _filled}, {"readonly": _flag})

_BIG = _number(0, _UINT64 - 1)
_SIGNED = _number(-_INT64, _INT64 - 1)
_IDS = _number(0, _ID - 1)
_mapping = _record({"containerID": _IDS, "hostID": _IDS, "size": _number(1, _ID)}, {})


def _env(field: str, value: Any) -> None:
    _text(field, value)
    if not value.partition("=")[0]:
        fail(field, f"must be NAME=value, got {value!r}")


def _args(field: str, value: Any) -> None:
    _list_of(_text)(field, value)
    if not value or not value[0]:
        fail(field, "must name a program")


def _capabilities(field: str, value: Any) -> None:
    _object(field, value)
    for name in CAPABILITY_SETS:
        _maybe(field, value, name, _list_of(_filled))


def _rlimits(field: str, value: Any) -> None:
    _list_of(_record({"type": _filled, "soft": _BIG, "hard": _BIG}, {}))(field, value)
    seen: set[str] = set()
    for index, entry in enumerate(value):
        name = entry["type"]
        if not _RLIMIT.fullmatch(name):
            fail(f"{field}[{index}].type", f"must be an RLIMIT_ name, got {name!r}")
        if name in seen:
            fail(f"{field}[{index}].type", f"{name} is given twice")
        seen.add(name)
        if entry["soft"] > entry["hard"]:
            fail(f"{field}[{index}].soft", f"exceeds the hard limit {entry['hard']}")


_process = _record(
    {"cwd": _absolute, "args": _args},
    {
        "terminal": _flag,
        "consoleSize": _record({"height": _IDS, "width": _IDS}, {}),
        "user": _record(
            {}, {"uid": _IDS, "gid": _IDS, "additionalGids": _list_of(_IDS), "umask": _IDS}
        ),
        "env": _list_of(_env),
        "capabilities": _capabilities,
        "rlimits": _rlimits,
        "noNewPrivileges": _flag,
        "oomScoreAdj": _number(-1000, 1000),
        "apparmorProfile": _text,
        "selinuxLabel": _text,
    },
)


def _host_name(field: str, value: Any) -> None:
    _text(field, value)
    if len(value.encode()) > 64:
        fail(field, "is longer than 64 bytes")


def _mount(field: str, value: Any) -> None:
    _record(
        {"destination": _filled},
        {
            "type": _text, "source": _text, "options": _list_of(_text),
            "uidMappings": _list_of(_mapping), "gidMappings": _list_of(_mapping),
        },
    )(field, value)  # fmt: skip
    target = value["destination"]
    if "\n" in target:
        fail(f"{field}.destination", "holds a line break")
    options = value.get("options") or ()
    is_bind = value.get("type") == "bind" or "bind" in options or "rbind" in options
    if is_bind and not value.get("source"):
        fail(f"{field}.source", "is missing for a bind mount")
    if value.get("type") != "proc" and is_forbidden_target("/" + target.strip("/")):
        fail(f"{field}.destination", f"{target} is inside /proc, which is the kernel's alone")


def _annotations(field: str, value: Any) -> None:
    _map_of(_text)(field, value)
    if "" in value:
        fail(field, "has an empty key")


_hooks = _record(
    {},
    {
        name: _list_of(
            _record(
                {"path": _absolute},
                {"args": _list_of(_text), "env": _list_of(_env), "timeout": _number(1, _ID)},
            )
        )
        for name in HOOKS
    },
)


def _namespaces(field: str, value: Any) -> None:
    _list_of(_record({"type": _one_of(NAMESPACES)}, {"path": _text}))(field, value)
    kinds = [entry["type"] for entry in value]
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            fail(f"{field}[{index}].type", f"{kind} is given twice")
        path = value[index].get("path")
        if path and not path.startswith("/"):
            fail(f"{field}[{index}].path", f"must be an absolute path, got {path!r}")


def _device(field: str, value: Any) -> None:
    _record(
        {"path": _absolute, "type": _one_of(frozenset("cbup"))},
        {
            "major": _SIGNED, "minor": _SIGNED, "fileMode": _number(0, 0o7777 | 0o170000),
            "uid": _IDS, "gid": _IDS,
        },
    )(field, value)  # fmt: skip
    if value["type"] != "p":
        for name in ("major", "minor"):
            _need(field, value, name, _number(0, _ID))


def _device_rule(field: str, value: Any) -> None:
    _record(
        {"allow": _flag},
        {"type": _one_of(frozenset("abcup")), "major": _SIGNED, "minor": _SIGNED,
         "access": _text},
    )(field, value)  # fmt: skip
    if not set(value.get("access") or "") <= set("rwm"):
        fail(f"{field}.access", f"must be of the letters rwm, got {value['access']!r}")


_seccomp_rule = _record(
    {"names": _list_of(_filled), "action": _one_of(SECCOMP_ACTIONS)},
    {
        "errnoRet": _number(0, 4095),
        "args": _list_of(
            _record(
                {"index": _number(0, 5), "value": _BIG, "op": _one_of(SECCOMP_OPERATORS)},
                {"valueTwo": _BIG},
            )
        ),
    },
)
check_seccomp = _record(
    {"defaultAction": _one_of(SECCOMP_ACTIONS)},
    {
        "defaultErrnoRet": _number(0, 4095),
        "architectures": _list_of(_filled),
        "flags": _list_of(_filled),
        "listenerPath": _text,
        "syscalls": _list_of(_seccomp_rule),
    },
)
_offset = _record({}, {"secs": _SIGNED, "nanosecs": _number(0, 999_999_999)})

_linux = _record(
    {},
    {
        "namespaces": _namespaces,
        "uidMappings": _list_of(_mapping),
        "gidMappings": _list_of(_mapping),
        "timeOffsets": _map_of(_offset),
        "devices": _list_of(_device),
        "cgroupsPath": _text,
        "rootfsPropagation": _one_of(PROPAGATIONS),
        "resources": _record({}, {"devices": _list_of(_device_rule)}),
        "seccomp": check_seccomp,
        "sysctl": _map_of(_text),
        "maskedPaths": _list_of(_absolute),
        "readonlyPaths": _list_of(_absolute),
    },
)


def _cross_check(spec: Mapping[str, Any]) -> None:
    """Check what two fields say together."""
    linux = spec.get("linux") or {}
    own = {entry["type"]: not entry.get("path") for entry in linux.get("namespaces") or ()}
    for name in ("hostname", "domainname"):
        if spec.get(name) and not own.get("uts"):
            fail(name, "needs a uts namespace of the container's own")
    if own.get("user") and not (linux.get("uidMappings") and linux.get("gidMappings")):
        fail("linux.uidMappings", "a user namespace needs uid and gid mappings")
    if (linux.get("uidMappings") or linux.get("gidMappings")) and "user" not in own:
        fail("linux.uidMappings", "mappings need a user namespace")
    if linux.get("timeOffsets") and not own.get("time"):
        fail("linux.timeOffsets", "offsets need a time namespace of the container's own")
    for name in linux.get("sysctl") or ():
        _check_sysctl(name, own)


def _check_sysctl(name: str, own: Mapping[str, bool]) -> None:
    """A setting without a namespace of its own would change the host."""
    field = f"linux.sysctl.{name}"
    dotted = name.replace("/", ".")
    if ".." in dotted or not re.fullmatch(r"[A-Za-z0-9_.:@-]+", dotted):
        fail(field, "is not the name of a setting")
    ipc = ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
    if dotted.startswith("net."):
        needed = "network"
    elif dotted.startswith(ipc):
        needed = "ipc"
    elif dotted in {"kernel.hostname", "kernel.domainname"}:
        needed = "uts"
    else:
        fail(field, "is not in a separate kernel namespace")
    if needed not in own:
        fail(field, f"needs a {needed} namespace of the container's own")
