"""What an image is: its configuration, its layers, its names.

Records only, read from the JSON of the OCI image specification (config.md) and of docker's
superset of it. Unknown fields are ignored, a field of the wrong type is an error. Finding images
is :mod:`aruntime.images.store`'s affair.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from aruntime.errors import InvalidArchive

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(?:Z|[+-]\d\d:\d\d)", re.IGNORECASE
)


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal"):
    """HEALTHCHECK of an image; times in nanoseconds, 0 means docker's default."""

    test: tuple[str, ...] = ()
    """``("CMD", arg…)``, ``("CMD-SHELL", text)``, ``("NONE",)`` or empty (inherit)."""
    interval_ns: int = msgspec.field(default=0, name="Interval")
    timeout_ns: int = msgspec.field(default=0, name="Timeout")
    start_period_ns: int = msgspec.field(default=0, name="StartPeriod")
    start_interval_ns: int = msgspec.field(default=0, name="StartInterval")
    retries: int = 0


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a container of the image is started; nothing here is None."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()
    """``80/tcp`` and the like, sorted."""
    volumes: tuple[str, ...] = ()
    """As the image says them: whoever mounts there resolves them inside the root."""
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of ``history``."""

    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class _RunConfig(msgspec.Struct, rename="pascal"):
    """The member ``config`` of the configuration file, as found."""

    entrypoint: list[str] | str | None = None
    cmd: list[str] | str | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    stop_signal: str | None = None
    healthcheck: Healthcheck | None = None
    shell: list[str] | None = None
    on_build: list[str] | None = None


class _RootFs(msgspec.Struct):
    diff_ids: list[str] = []
    type: str = "layers"


class _ConfigFile(msgspec.Struct):
    """The image configuration (OCI image-spec, config.md), as found."""

    rootfs: _RootFs
    config: _RunConfig | None = None
    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str | None = None
    comment: str | None = None
    created: str | None = None
    history: list[History] | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the store, as it was when asked for."""

    id: str
    """``sha256:…`` of the configuration."""
    digest: str
    """``sha256:…`` of the manifest."""
    names: tuple[str, ...]
    """Normalised ``name:tag`` references, sorted."""
    digests: tuple[str, ...] = ()
    """Normalised ``name@digest`` references, sorted."""
    config: ImageConfig
    layers: tuple[str, ...]
    """Directories of the unpacked layers, lowest first."""
    diff_ids: tuple[str, ...]
    size: int
    """Bytes of all files of all layers."""
    layer_sizes: tuple[int, ...] = ()
    """Bytes of the files of each layer, lowest first."""
    created_ns: int
    """Unix time in nanoseconds, 0 when the image does not say."""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    author: str = ""
    comment: str = ""
    history: tuple[History, ...] = ()
    root_mode: int = 0o755
    """Mode and owner of the root directory: overlayfs takes them from the upperdir, so whoever
    makes an upperdir copies them."""
    root_uid: int = 0
    root_gid: int = 0


def _words(value: list[str] | str | None) -> tuple[str, ...]:
    # Docker before 1.0 wrote a lone string; its own reader still takes both.
    return (value,) if isinstance(value, str) else tuple(value or ())


def _normalised(found: _RunConfig) -> ImageConfig:
    return ImageConfig(
        entrypoint=_words(found.entrypoint),
        cmd=_words(found.cmd),
        env=tuple(found.env or ()),
        working_dir=found.working_dir or "",
        user=found.user or "",
        labels=found.labels or {},
        exposed_ports=tuple(sorted(found.exposed_ports or ())),
        volumes=tuple(sorted(found.volumes or ())),
        stop_signal=found.stop_signal or "",
        healthcheck=found.healthcheck,
        shell=tuple(found.shell or ()),
        on_build=tuple(found.on_build or ()),
    )


class ParsedConfig(msgspec.Struct, frozen=True):
    """An image configuration file, read and checked."""

    config: ImageConfig
    diff_ids: tuple[str, ...]
    created_ns: int
    architecture: str
    os: str
    variant: str
    author: str
    comment: str
    history: tuple[History, ...]


def parse_config(text: bytes) -> ParsedConfig:
    """Read an image configuration.

    Raises:
        InvalidArchive: it is not JSON, or a field has the wrong type.
    """
    try:
        found = msgspec.json.decode(text, type=_ConfigFile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArchive(f"invalid image configuration: {error}") from error
    return ParsedConfig(
        config=_normalised(found.config or _RunConfig()),
        diff_ids=tuple(found.rootfs.diff_ids),
        created_ns=parse_time_ns(found.created or ""),
        architecture=found.architecture,
        os=found.os,
        variant=found.variant,
        author=found.author or "",
        comment=found.comment or "",
        history=tuple(found.history or ()),
    )


def parse_time_ns(text: str) -> int:
    """Return Unix nanoseconds of an RFC 3339 time, 0 for anything else and for year 1.

    Nine digits of fraction are kept; datetime has only six.
    """
    found = _RFC3339.fullmatch(text)
    if found is None:
        return 0
    zone = "+00:00" if text[-1] in "Zz" else text[-6:]
    try:
        seconds = int(datetime.fromisoformat(found[1].upper() + zone).timestamp())
    except (ValueError, OverflowError):
        return 0
    return max(0, seconds * 1_000_000_000 + int((found[2] or "").ljust(9, "0")))


def format_time_ns(time_ns: int) -> str:
    """Return the RFC 3339 form of a Unix time in nanoseconds, as docker writes it."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
