"""Values with a structure of their own that flags of run, create and update take.

Each function reads one value as typed and raises ``ValueError`` with docker's reason; the
parser adds which flag it was. Paths of devices are split here and looked up later. Out of
scope: mounts (:mod:`aruntime.daemon.commands.run_mounts`).
"""

from __future__ import annotations

import ipaddress
import re
import signal
from fractions import Fraction

from aruntime.container.config import Device, RestartPolicy, Ulimit
from aruntime.daemon.commands.values import parse_bool, parse_bytes, parse_int
from aruntime.errors import InvalidSpec
from aruntime.spec import device_rule

ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
        "rss", "rtprio", "rttime", "sigpending", "stack",
    }
)  # fmt: skip
SYSCTLS = frozenset(
    {
        "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
        "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
    }
)  # fmt: skip
"""Namespaced settings outside of ``net.`` and ``fs.mqueue.``."""

_BAD_RATE = (
    "invalid rate for device: {}. The correct format is <device-path>:<number>{}. "
    "Number must be a positive integer"
)
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_RATIONAL = re.compile(
    r"[+-]?(?:[0-9]+/[0-9]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)"
)
UINT16_MAX = 65535


def parse_stream(text: str) -> str:
    """Read a value of ``-a``: stdin, stdout or stderr, in any case."""
    if text.lower() not in {"stdin", "stdout", "stderr"}:
        raise ValueError("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def parse_env(text: str) -> str:
    """Check a value of ``-e``: ``NAME=value`` or ``NAME``."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable: {text}")
    if "\0" in text:
        raise ValueError("a NUL byte cannot stand in an environment variable")
    return text


def parse_nano_cpus(text: str) -> int:
    """Read ``--cpus`` as billionths of a CPU."""
    found = _RATIONAL.fullmatch(text)
    try:
        nano = Fraction(text) * 1_000_000_000 if found else None
    except (ValueError, ZeroDivisionError):
        nano = None
    if nano is None:
        raise ValueError(f"failed to parse {text} as a rational number")
    if nano.denominator != 1:
        raise ValueError("value is too precise")
    return int(nano)


def parse_blkio_weight(text: str) -> int:
    """Read ``--blkio-weight``; its range is checked with the other limits."""
    if not text.isdecimal() or not text.isascii():
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) > UINT16_MAX:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _split_device(text: str) -> tuple[str, str]:
    path, colon, amount = text.partition(":")
    if not colon or not path:
        raise ValueError(f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise ValueError(f"bad format for device path: {text}")
    return path, amount


def parse_weight_device(text: str) -> tuple[str, int]:
    """Read ``/dev/sda:500`` of ``--blkio-weight-device``."""
    path, amount = _split_device(text)
    weight = int(amount) if amount.isdecimal() and amount.isascii() else -1
    if weight != 0 and not 10 <= weight <= 1000:
        raise ValueError(f"invalid weight for device: {text}")
    return path, weight


def parse_device_bps(text: str) -> tuple[str, int]:
    """Read ``/dev/sda:30MB`` of ``--device-read-bps`` and its like: path, bytes per second."""
    path, amount = _split_device(text)
    try:
        return path, parse_bytes(amount)
    except ValueError:
        unit = ". Unit is optional and can be kb, mb, or gb"
        raise ValueError(_BAD_RATE.format(text, "[<unit>]") + unit) from None


def parse_device_iops(text: str) -> tuple[str, int]:
    """Read ``/dev/sda:1000`` of ``--device-read-iops``: path, operations per second."""
    path, amount = _split_device(text)
    if not amount.isdecimal() or not amount.isascii() or int(amount) >= 1 << 63:
        raise ValueError(_BAD_RATE.format(text, ""))
    return path, int(amount)


def parse_device(text: str) -> Device:
    """Read ``--device SOURCE[:TARGET][:rwm]``."""
    parts = text.split(":")
    source = parts[0]
    target, permissions = source, "rwm"
    if len(parts) > 3 or not source:
        raise ValueError(f"invalid device specification: {text}")
    if len(parts) == 3:
        target, permissions = parts[1], parts[2]
        if not _is_permissions(permissions):
            raise ValueError(f"bad mode specified: {permissions}")
    elif len(parts) == 2 and _is_permissions(parts[1]):
        permissions = parts[1]
    elif len(parts) == 2:
        target = parts[1]
    for path in (source, target):
        if not path.startswith("/"):
            raise ValueError(f"{path} is not an absolute path")
    return Device(source=source, target=target, permissions=permissions)


def _is_permissions(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def parse_device_rule(text: str) -> str:
    """Check ``--device-cgroup-rule 'c 42:* rmw'``."""
    try:
        device_rule(text)
    except InvalidSpec:
        raise ValueError(f"invalid device cgroup format '{text}'") from None
    return text


def parse_ulimit(text: str) -> Ulimit:
    """Read ``--ulimit name=soft[:hard]``; -1 is unlimited."""
    name, equals, limits = text.partition("=")
    if not equals or not limits:
        raise ValueError(f"invalid ulimit argument: {text}")
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    numbers = [parse_int(number) for number in limits.split(":")]
    if len(numbers) > 2:
        raise ValueError(f"too many limit value arguments - {limits}, can only have up to two")
    soft, hard = numbers[0], numbers[-1]
    if min(soft, hard) < -1:
        raise ValueError(f"a limit must be -1 (unlimited) or more: {limits}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(
            "ulimit soft limit must be less than or equal to hard limit: "
            + (f"soft: -1 (unlimited), hard: {hard}" if soft == -1 else f"{soft} > {hard}")
        )
    return Ulimit(name=name, soft=soft, hard=hard)


def parse_sysctl(text: str) -> tuple[str, str]:
    """Read ``--sysctl name=value``; only settings that a namespace has of its own."""
    name, equals, value = text.partition("=")
    allowed = name in SYSCTLS or name.startswith(("net.", "fs.mqueue."))
    if not equals or not allowed or "/" in name or ".." in name or re.search(r"\s", name):
        raise ValueError(f"sysctl '{text}' is not allowed")
    return name, value


def parse_extra_host(text: str) -> tuple[str, str]:
    """Read ``--add-host name:address`` (or ``name=address``); address may be host-gateway."""
    split = re.fullmatch(r"([^=:\s]+)[=:](\S+)", text)
    if split is None:
        raise ValueError(f'bad format for add-host: "{text}"')
    name, address = split.groups()
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if bare != "host-gateway":
        try:
            ipaddress.ip_address(bare)
        except ValueError:
            raise ValueError(f'invalid IP address in add-host: "{address}"') from None
    return name, bare


def parse_address(text: str) -> str:
    """Check the IP address of ``--dns``."""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError(f"IP address is not correctly formatted: {text}") from None


def parse_domain(text: str) -> str:
    """Check the domain of ``--dns-search``; a dot alone means none."""
    if text.strip(" ") != "." and not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text} is not a valid domain")
    return text.strip(" ")


def parse_dns_option(text: str) -> str:
    """Check one word for the options line of resolv.conf."""
    if not text or re.search(r"\s", text):
        raise ValueError("must be one word")
    return text


def parse_host_name(text: str) -> str:
    """Check ``--hostname`` and ``--domainname``: what sethostname takes, as one word."""
    if len(text.encode()) > 64:
        raise ValueError("must not be longer than 64 bytes")
    if not re.fullmatch(r"[a-zA-Z0-9_]?[a-zA-Z0-9_.-]*", text):
        raise ValueError("only letters, digits, dots, hyphens and underscores are allowed")
    return text


def parse_restart(text: str) -> RestartPolicy:
    """Read ``--restart no|always|unless-stopped|on-failure[:n]``."""
    name, colon, count = text.partition(":")
    if name not in {"", "no", "always", "unless-stopped", "on-failure"}:
        raise ValueError(
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if not colon:
        return RestartPolicy(name=name or "no")
    if not name:
        raise ValueError("invalid restart policy format: no policy provided before colon")
    if not re.fullmatch(r"-?[0-9]{1,9}", count):
        raise ValueError("invalid restart policy format: maximum retry count must be an integer")
    if name != "on-failure":
        raise ValueError(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if int(count) < 0:
        raise ValueError("invalid restart policy: maximum retry count cannot be negative")
    return RestartPolicy(name=name, max_retries=int(count))


def parse_signal(text: str) -> int:
    """Read a signal: ``9``, ``KILL``, ``SIGKILL``, ``RTMIN+3``.

    Raises:
        ValueError: docker's ``invalid signal: X``.
    """
    word = text.upper().removeprefix("SIG")
    if word.isdecimal() and word.isascii() and 1 <= int(word) <= signal.SIGRTMAX:
        return int(word)
    realtime = re.fullmatch(r"RT(MIN|MAX)([+-][0-9]{1,2})?", word)
    if realtime:
        base = signal.SIGRTMIN if realtime[1] == "MIN" else signal.SIGRTMAX
        number = base + int(realtime[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    try:
        return int(signal.Signals[f"SIG{word}"])
    except KeyError:
        raise ValueError(f"invalid signal: {text}") from None


def parse_security_option(text: str) -> tuple[str, str]:
    """Read ``--security-opt name[=value]``; the older ``name:value`` is taken too."""
    split = re.fullmatch(r"([^=:]+)(?:[=:](.*))?", text)
    name, value = (split[1], split[2]) if split else (text, None)
    if name == "no-new-privileges":
        return name, str(parse_bool("true" if value is None else value)).lower()
    known = {"seccomp", "apparmor", "label", "systempaths"}
    if name not in known or not value:
        raise ValueError(f'invalid --security-opt: "{text}"')
    return name, value


def parse_group(text: str) -> str:
    """Check one group of ``--group-add``: a name or a number."""
    if not text or re.search(r"[\s:\0]", text):
        raise ValueError(f"invalid group: {text!r}")
    return text


def parse_tenant(text: str) -> str:
    """Check ``--tenant``: it becomes a label of metrics and a key of the ledger."""
    if not text or len(text) > 128 or not text.isprintable() or text != text.strip():
        raise ValueError("a tenant has 1 to 128 printable characters, no blanks around them")
    return text
