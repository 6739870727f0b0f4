"""The mounts that run and create ask for: ``-v``, ``--mount``, ``--tmpfs``, VOLUME.

Each parse function reads one value as typed and raises ``ValueError`` with docker's reason;
:func:`requested_mounts` puts them together with the image's volumes. Nothing is mounted and no
directory made here. Paths inside the container are cleaned textually only: whoever mounts there
resolves them inside the root.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from aruntime.container.config import Mount
from aruntime.daemon.commands.flags import Parsed
from aruntime.daemon.commands.values import parse_bool, parse_bytes
from aruntime.errors import InvalidParameter
from aruntime.spec import is_forbidden_target

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_CONSISTENCIES = frozenset({"consistent", "cached", "delegated", "default"})
_TMPFS_FLAGS = frozenset(
    {
        "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async",
        "dirsync", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime",
        "norelatime", "strictatime", "nostrictatime",
    }
)  # fmt: skip
_TMPFS_KEYS = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})

_UNSUPPORTED_KEYS = {
    "volume-driver": "only the local driver is there",
    "volume-opt": "a volume is a directory of this host",
    "volume-label": "volumes have no labels in this release",
    "volume-subpath": "mount the directory with type=bind",
    "image-subpath": "images cannot be mounted",
}


def clean_target(text: str, whole: str) -> str:
    """Normalise the path of a mount inside the container.

    Raises:
        ValueError: it is relative, or the root itself.
    """
    if not text.startswith("/"):
        raise ValueError(
            f"invalid volume specification: '{whole}': invalid mount path: '{text}' "
            "mount path must be absolute"
        )
    target = "/" + posixpath.normpath(text).lstrip("/")
    if target == "/":
        raise ValueError(
            f"invalid volume specification: '{whole}': invalid specification: "
            "destination can't be '/'"
        )
    if "\0" in target or "\n" in target:
        raise ValueError("a path of a mount cannot hold a NUL byte or a line break")
    return target


def parse_volume(text: str) -> Mount:
    """Read ``-v``: ``/target``, ``name:/target[:options]`` or ``/host:/target[:options]``.

    A source that begins with ``.`` is relative to the caller's directory and stays so here.
    """
    source, target, mode = _split_volume(text)
    target = clean_target(target, text)
    options = _volume_options(mode)
    if not source.startswith(("/", ".")):
        if source:
            check_volume_name(source)
        if options.propagation:
            raise ValueError(f"invalid mode: {mode}: propagation is for bind mounts only")
        return Mount(
            type="volume",
            source=source,
            target=target,
            read_only=options.read_only,
            no_copy=options.no_copy,
        )
    if options.no_copy:
        raise ValueError(f"invalid mode: {mode}: nocopy is for volumes only")
    return Mount(
        type="bind",
        source=source if source.startswith(".") else posixpath.normpath(source),
        target=target,
        create_source=True,
        read_only=options.read_only,
        propagation=options.propagation,
    )


def _split_volume(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) == 1:
        return "", parts[0], ""
    # /target:ro would be an anonymous volume with options, which docker does not have.
    if len(parts) > 3 or not all(parts[:2]) or (len(parts) == 2 and not parts[1][0] == "/"):
        raise ValueError(f"invalid volume specification: '{text}'")
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def check_volume_name(name: str) -> str:
    """Return the name of a volume.

    Raises:
        ValueError: it holds other characters, or is shorter than two.
    """
    if not _VOLUME_NAME.fullmatch(name):
        raise ValueError(
            f'"{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed; if you intended to pass a host directory, '
            "use absolute path"
        )
    return name


class _VolumeOptions(NamedTuple):
    """The third part of ``-v``."""

    read_only: bool
    propagation: str
    no_copy: bool


def _volume_options(mode: str) -> _VolumeOptions:
    """Read the third part of ``-v``: each kind of option at most once."""
    found: dict[str, str] = {}
    for word in mode.split(",") if mode else ():
        if word in _PROPAGATIONS:
            kind = "propagation"
        elif word in _CONSISTENCIES:
            kind = "consistency"
        else:
            # z and Z: SELinux relabelling, there is nothing to do where SELinux is off.
            kind = {"ro": "access", "rw": "access", "z": "z", "Z": "z"}.get(word, word)
        if kind in found or kind not in {"access", "propagation", "consistency", "z", "nocopy"}:
            raise ValueError(f"invalid mode: {mode}")
        found[kind] = word
    return _VolumeOptions(
        found.get("access") == "ro", found.get("propagation", ""), "nocopy" in found
    )


def parse_tmpfs(text: str) -> Mount:
    """Read ``--tmpfs /target[:options]``."""
    target, _, options = text.partition(":")
    words = tuple(word for word in options.split(",") if word)
    for word in words:
        key, equals, value = word.partition("=")
        known = key in _TMPFS_KEYS and value if equals else word in _TMPFS_FLAGS
        if not known or re.search(r"[\s\0]", word):
            raise ValueError(f'invalid tmpfs option ["{word}"]')
    return Mount(type="tmpfs", target=clean_target(target, text), options=words)


def parse_mount(text: str) -> Mount:
    """Read ``--mount type=bind,src=/a,dst=/b,readonly`` (one line of CSV)."""
    fields = _mount_fields(text)
    kind = fields.pop("type", "volume").lower()
    if kind not in {"bind", "volume", "tmpfs"}:
        raise ValueError(f'mount type "{kind}" is not supported: use bind, volume or tmpfs')
    if "target" not in fields:
        raise ValueError("target is required")
    target = clean_target(fields.pop("target"), text)
    for key in fields:
        owner = key.partition("-")[0]
        if owner in {"bind", "volume", "tmpfs"} and owner != kind:
            raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
    source = fields.pop("source", "")
    read_only = _boolean("readonly", fields.pop("readonly", "false"))
    fields.pop("consistency", None)
    if kind == "bind":
        return _bind_mount(source, target, read_only, fields)
    if kind == "volume":
        if source:
            check_volume_name(source)
        no_copy = _boolean("volume-nocopy", fields.get("volume-nocopy", "false"))
        return Mount(type=kind, source=source, target=target, read_only=read_only, no_copy=no_copy)
    if source:
        raise ValueError(
            'invalid mount config for type "tmpfs": field Source must not be specified'
        )
    return Mount(type=kind, target=target, options=_tmpfs_options(read_only, fields))


_KEYS = {
    "type": "type", "source": "source", "src": "source", "target": "target", "dst": "target",
    "destination": "target", "readonly": "readonly", "ro": "readonly",
    "consistency": "consistency", "bind-propagation": "bind-propagation",
    "bind-nonrecursive": "bind-nonrecursive", "bind-recursive": "bind-recursive",
    "bind-create-src": "bind-create-src", "volume-nocopy": "volume-nocopy",
    "tmpfs-size": "tmpfs-size", "tmpfs-mode": "tmpfs-mode",
}  # fmt: skip
_MAY_STAND_ALONE = frozenset({"readonly", "volume-nocopy", "bind-nonrecursive", "bind-create-src"})


def _mount_fields(text: str) -> dict[str, str]:
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"parse error: {error}") from None
    fields: dict[str, str] = {}
    for word in rows[0] if rows else [""]:
        key, equals, value = word.partition("=")
        name = key.lower()
        if name in _UNSUPPORTED_KEYS and not (name == "volume-driver" and value == "local"):
            raise ValueError(f"{name} is not supported: {_UNSUPPORTED_KEYS[name]}")
        if not equals and _KEYS.get(name) in _MAY_STAND_ALONE:
            value = "true"
        elif not equals:
            raise ValueError(f"invalid field '{word}' must be a key=value pair")
        elif name not in _KEYS and name != "volume-driver":
            raise ValueError(f"unexpected key '{key}' in '{word}'")
        if name != "volume-driver":
            fields[_KEYS[name]] = value
    return fields


def _boolean(key: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {text}") from None


def _bind_mount(source: str, target: str, read_only: bool, fields: dict[str, str]) -> Mount:
    if not source:
        raise ValueError('invalid mount config for type "bind": field Source must not be empty')
    propagation = fields.get("bind-propagation", "")
    if propagation and propagation not in _PROPAGATIONS:
        raise ValueError(f"invalid value for bind-propagation: {propagation}")
    recursion = fields.get("bind-recursive", "enabled")
    if recursion not in {"enabled", "disabled", "writable", "readonly"}:
        raise ValueError(
            f"invalid value for bind-recursive: {recursion} "
            '(must be "enabled", "disabled", "writable", or "readonly")'
        )
    if recursion in {"writable", "readonly"} and not read_only:
        raise ValueError(
            f"option 'bind-recursive={recursion}' requires 'readonly' to be specified in "
            "conjunction"
        )
    flat = _boolean("bind-nonrecursive", fields.get("bind-nonrecursive", "false"))
    return Mount(
        type="bind",
        source=source if source.startswith(".") else posixpath.normpath(source),
        target=target,
        read_only=read_only,
        propagation=propagation,
        recursive=recursion != "disabled" and not flat,
        submounts_writable=recursion == "writable",
        create_source=_boolean("bind-create-src", fields.get("bind-create-src", "false")),
    )


def _tmpfs_options(read_only: bool, fields: dict[str, str]) -> tuple[str, ...]:
    options = ["ro"] if read_only else []
    if "tmpfs-size" in fields:
        try:
            options.append(f"size={parse_bytes(fields['tmpfs-size'])}")
        except ValueError:
            raise ValueError(f"invalid value for tmpfs-size: {fields['tmpfs-size']}") from None
    if "tmpfs-mode" in fields:
        mode = fields["tmpfs-mode"]
        if not re.fullmatch(r"[0-7]{1,5}", mode):
            raise ValueError(f"invalid value for tmpfs-mode: {mode}")
        options.append(f"mode={mode}")
    return tuple(options)


def requested_mounts(
    parsed: Parsed,
    image_volumes: Iterable[str],
    *,
    cwd: str,
    exists: Callable[[str], bool],
    new_volume: Callable[[], str],
) -> list[Mount]:
    """Collect the mounts of a command line and the image's volumes it does not cover.

    Args:
        parsed: values of ``volume``, ``mount`` and ``tmpfs``.
        image_volumes: VOLUME paths of the image.
        cwd: the caller's directory, for sources such as ``./x``.
        exists: whether a host path exists.
        new_volume: makes the name of an anonymous volume.

    Raises:
        InvalidParameter: a target is used twice or inside /proc, or the source of ``--mount``
            is missing.
    """
    asked: list[Mount] = [*parsed["volume"], *parsed["mount"], *parsed["tmpfs"]]
    mounts: dict[str, Mount] = {}
    for mount in asked:
        if mount.target in mounts:
            raise InvalidParameter(f"duplicate mount point: {mount.target}; name it once")
        if is_forbidden_target(mount.target):
            raise InvalidParameter(
                f"{mount.target} cannot be mounted because it is inside /proc; choose another path"
            )
        mounts[mount.target] = _complete(mount, cwd, exists, new_volume)
    for path in image_volumes:
        target = "/" + posixpath.normpath("/" + path).lstrip("/")
        if target != "/" and target not in mounts and not is_forbidden_target(target):
            mounts[target] = Mount(type="volume", source=new_volume(), target=target)
    return list(mounts.values())


def _complete(
    mount: Mount, cwd: str, exists: Callable[[str], bool], new_volume: Callable[[], str]
) -> Mount:
    """Fill in what the text left to the circumstances: directory, name of the volume."""
    if mount.type == "volume" and not mount.source:
        return msgspec.structs.replace(mount, source=new_volume())
    if mount.type != "bind":
        return mount
    source = posixpath.normpath(posixpath.join(cwd, mount.source))
    if not source.startswith("/"):
        raise InvalidParameter(
            f"invalid mount config for type \"bind\": invalid mount path: '{mount.source}' "
            "mount path must be absolute"
        )
    source = "/" + source.lstrip("/")
    if not mount.create_source and not exists(source):
        raise InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: {source}; '
            "make it first, or use -v, which does"
        )
    return msgspec.structs.replace(mount, source=source)
