"""Single values of run's flags, and their refusals in docker's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.container.config import Device, Mount, RestartPolicy, Ulimit
from aruntime.daemon.commands import run_values as read
from aruntime.daemon.commands.names import check_name, new_id, random_name
from aruntime.daemon.commands.run_mounts import parse_mount, parse_tmpfs, parse_volume
from aruntime.errors import InvalidParameter

Reader = Callable[[str], Any]


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (read.parse_stream, "STDOUT", "stdout"),
        (read.parse_env, "A=b=c", "A=b=c"),
        (read.parse_nano_cpus, "1.5", 1_500_000_000),
        (read.parse_nano_cpus, ".5", 500_000_000),
        (read.parse_nano_cpus, "1/4", 250_000_000),
        (read.parse_nano_cpus, "2e0", 2_000_000_000),
        (read.parse_blkio_weight, "500", 500),
        (read.parse_weight_device, "/dev/sda:200", ("/dev/sda", 200)),
        (read.parse_device_bps, "/dev/sda:30MB", ("/dev/sda", 31457280)),
        (read.parse_device_iops, "/dev/sda:1000", ("/dev/sda", 1000)),
        (read.parse_device, "/dev/x", Device(source="/dev/x", target="/dev/x")),
        (read.parse_device, "/dev/x:r", Device(source="/dev/x", target="/dev/x", permissions="r")),
        (read.parse_device, "/dev/x:/y", Device(source="/dev/x", target="/y")),
        (read.parse_device, "/dev/x:/y:m", Device(source="/dev/x", target="/y", permissions="m")),
        (read.parse_device_rule, "c 42:* rmw", "c 42:* rmw"),
        (read.parse_ulimit, "nofile=10", Ulimit(name="nofile", soft=10, hard=10)),
        (read.parse_ulimit, "core=0:-1", Ulimit(name="core", soft=0, hard=-1)),
        (read.parse_sysctl, "net.ipv4.ip_forward=1", ("net.ipv4.ip_forward", "1")),
        (read.parse_sysctl, "kernel.msgmax=", ("kernel.msgmax", "")),
        (read.parse_extra_host, "a:1.2.3.4", ("a", "1.2.3.4")),
        (read.parse_extra_host, "a=[::1]", ("a", "::1")),
        (read.parse_extra_host, "a:host-gateway", ("a", "host-gateway")),
        (read.parse_address, "fe80::1", "fe80::1"),
        (read.parse_domain, "example.org.", "example.org."),
        (read.parse_domain, ".", "."),
        (read.parse_host_name, "box-1.lan", "box-1.lan"),
        (read.parse_restart, "always", RestartPolicy(name="always")),
        (read.parse_restart, "on-failure:3", RestartPolicy(name="on-failure", max_retries=3)),
        (read.parse_signal, "9", 9),
        (read.parse_signal, "sigterm", 15),
        (read.parse_signal, "RTMIN+3", 37),
        (read.parse_signal, "SIGRTMAX-1", 63),
        (read.parse_security_option, "no-new-privileges", ("no-new-privileges", "true")),
        (read.parse_security_option, "no-new-privileges:0", ("no-new-privileges", "false")),
        (read.parse_security_option, "seccomp=/a=b", ("seccomp", "/a=b")),
        (read.parse_security_option, "label:disable", ("label", "disable")),
        (read.parse_group, "audio", "audio"),
        (read.parse_tenant, "a team", "a team"),
    ],
)
def test_values_are_read(reader: Reader, text: str, value: object) -> None:
    """One text, one value."""
    assert reader(text) == value


RATE = (
    "invalid rate for device: /dev/x:q. The correct format is <device-path>:<number>[<unit>]. "
    "Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
)


@pytest.mark.parametrize(
    ("reader", "text", "reason"),
    [
        (read.parse_stream, "foo", "valid streams are STDIN, STDOUT and STDERR"),
        (read.parse_env, "=x", "invalid environment variable: =x"),
        (read.parse_nano_cpus, "x", "failed to parse x as a rational number"),
        (read.parse_nano_cpus, "1/0", "failed to parse 1/0 as a rational number"),
        (read.parse_nano_cpus, "1e999", "failed to parse 1e999 as a rational number"),
        (read.parse_nano_cpus, "1.0000000001", "value is too precise"),
        (read.parse_blkio_weight, "99999",
         'strconv.ParseUint: parsing "99999": value out of range'),
        (read.parse_weight_device, "x", "bad format: x"),
        (read.parse_weight_device, "/dev/x:9999", "invalid weight for device: /dev/x:9999"),
        (read.parse_device_bps, "sda:1", "bad format for device path: sda:1"),
        (read.parse_device_bps, "/dev/x:q", RATE),
        (read.parse_device_iops, "/dev/x:1m", "invalid rate for device: /dev/x:1m. The correct "
         "format is <device-path>:<number>. Number must be a positive integer"),
        (read.parse_device, "/dev/x:/y:q", "bad mode specified: q"),
        (read.parse_device, "dev/x", "dev/x is not an absolute path"),
        (read.parse_device, "a:b:c:d", "invalid device specification: a:b:c:d"),
        (read.parse_device_rule, "c 1:3 rwmm", "invalid device cgroup format 'c 1:3 rwmm'"),
        (read.parse_ulimit, "nofile", "invalid ulimit argument: nofile"),
        (read.parse_ulimit, "foo=1", "invalid ulimit type: foo"),
        (read.parse_ulimit, "nofile=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        (read.parse_ulimit, "nofile=5:3",
         "ulimit soft limit must be less than or equal to hard limit: 5 > 3"),
        (read.parse_ulimit, "nofile=-1:5", "ulimit soft limit must be less than or equal to hard "
         "limit: soft: -1 (unlimited), hard: 5"),
        (read.parse_sysctl, "foo=1", "sysctl 'foo=1' is not allowed"),
        (read.parse_sysctl, "net.x", "sysctl 'net.x' is not allowed"),
        (read.parse_sysctl, "net./../kernel.x=1", "sysctl 'net./../kernel.x=1' is not allowed"),
        (read.parse_extra_host, "foo", 'bad format for add-host: "foo"'),
        (read.parse_extra_host, "foo:1", 'invalid IP address in add-host: "1"'),
        (read.parse_address, "1.2.3.4.5", "IP address is not correctly formatted: 1.2.3.4.5"),
        (read.parse_domain, ":", ": is not a valid domain"),
        (read.parse_host_name, "x" * 65, "must not be longer than 64 bytes"),
        (read.parse_restart, "foo", "invalid restart policy: unknown policy 'foo'; use one of "
         "'no', 'always', 'on-failure', or 'unless-stopped'"),
        (read.parse_restart, "always:3",
         "invalid restart policy: maximum retry count can only be used with 'on-failure'"),
        (read.parse_restart, "on-failure:x",
         "invalid restart policy format: maximum retry count must be an integer"),
        (read.parse_restart, "on-failure:-1",
         "invalid restart policy: maximum retry count cannot be negative"),
        (read.parse_restart, ":1",
         "invalid restart policy format: no policy provided before colon"),
        (read.parse_signal, "FOO", "invalid signal: FOO"),
        (read.parse_signal, "0", "invalid signal: 0"),
        (read.parse_signal, "RTMIN+40", "invalid signal: RTMIN+40"),
        (read.parse_security_option, "foo", 'invalid --security-opt: "foo"'),
        (read.parse_group, "a b", "invalid group: 'a b'"),
        (read.parse_tenant, "a\nb",
         "a tenant has 1 to 128 printable characters, no blanks around them"),
        (parse_volume, "a:b", "invalid volume specification: 'a:b'"),
        (parse_volume, "/a:/b:ro:x", "invalid volume specification: '/a:/b:ro:x'"),
        (parse_volume, "/a:/", "invalid volume specification: '/a:/': invalid specification: "
         "destination can't be '/'"),
        (parse_volume, "/a:/b:rx", "invalid mode: rx"),
        (parse_volume, "/a:/b:ro,rw", "invalid mode: ro,rw"),
        (parse_volume, "v1:/b:rshared",
         "invalid mode: rshared: propagation is for bind mounts only"),
        (parse_volume, "/a:/b:nocopy", "invalid mode: nocopy: nocopy is for volumes only"),
        (parse_volume, "v/w:/b", '"v/w" includes invalid characters for a local volume name, only '
         '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed; if you intended to pass a host directory, use '
         "absolute path"),
        (parse_tmpfs, "/x:foo", 'invalid tmpfs option ["foo"]'),
        (parse_tmpfs, "/x:size=", 'invalid tmpfs option ["size="]'),
        (parse_mount, "foo", "invalid field 'foo' must be a key=value pair"),
        (parse_mount, "", "target is required"),
        (parse_mount, "src=/x", "target is required"),
        (parse_mount, "type=foo,dst=/x",
         'mount type "foo" is not supported: use bind, volume or tmpfs'),
        (parse_mount, "type=tmpfs,dst=/x,foo=1", "unexpected key 'foo' in 'foo=1'"),
        (parse_mount, "type=bind,dst=/x",
         'invalid mount config for type "bind": field Source must not be empty'),
        (parse_mount, "type=tmpfs,src=/a,dst=/x",
         'invalid mount config for type "tmpfs": field Source must not be specified'),
        (parse_mount, "type=bind,src=/a,dst=/x,readonly=maybe",
         "invalid value for readonly: maybe"),
        (parse_mount, "type=bind,src=/a,dst=/x,volume-nocopy",
         "cannot mix 'volume-*' options with mount type 'bind'"),
        (parse_mount, "type=bind,src=/a,dst=/x,bind-propagation=up",
         "invalid value for bind-propagation: up"),
        (parse_mount, "type=bind,src=/a,dst=/x,bind-recursive=readonly",
         "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction"),
        (parse_mount, "type=tmpfs,dst=/x,tmpfs-size=q", "invalid value for tmpfs-size: q"),
        (parse_mount, "type=tmpfs,dst=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        (parse_mount, "type=volume,dst=/x,volume-driver=nfs",
         "volume-driver is not supported: only the local driver is there"),
        (parse_mount, 'type=bind,"src=/a', "parse error: unexpected end of data"),
    ],
)  # fmt: skip
def test_refusals_are_in_docker_s_words(reader: Reader, text: str, reason: str) -> None:
    """The reason, without the flag's name."""
    with pytest.raises(ValueError) as caught:
        reader(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("reader", "text", "mount"),
    [
        (parse_volume, "/x/../y", Mount(type="volume", target="/y")),
        (parse_volume, "data:/d:ro,nocopy",
         Mount(type="volume", source="data", target="/d", read_only=True, no_copy=True)),
        (parse_volume, "/a//b:/c:rslave,z,cached",
         Mount(type="bind", source="/a/b", target="/c", propagation="rslave", create_source=True)),
        (parse_volume, "./a:/c", Mount(type="bind", source="./a", target="/c", create_source=True)),
        (parse_tmpfs, "/t:size=1m,exec,mode=1777",
         Mount(type="tmpfs", target="/t", options=("size=1m", "exec", "mode=1777"))),
        (parse_mount, "type=bind,source=/a,target=/b,readonly,bind-propagation=shared",
         Mount(type="bind", source="/a", target="/b", read_only=True, propagation="shared")),
        (parse_mount, 'TYPE=bind,"src=/a,b",dst=/x',
         Mount(type="bind", source="/a,b", target="/x")),
        (parse_mount, "type=bind,src=/a,dst=/x,bind-recursive=disabled",
         Mount(type="bind", source="/a", target="/x", recursive=False)),
        (parse_mount, "type=bind,src=/a,dst=/x,ro,bind-recursive=writable",
         Mount(type="bind", source="/a", target="/x", read_only=True, submounts_writable=True)),
        (parse_mount, "dst=/x,volume-nocopy,volume-driver=local",
         Mount(type="volume", target="/x", no_copy=True)),
        (parse_mount, "type=tmpfs,dst=/x,tmpfs-size=1k,tmpfs-mode=700,ro",
         Mount(type="tmpfs", target="/x", options=("ro", "size=1024", "mode=700"))),
    ],
)  # fmt: skip
def test_mounts_are_read(reader: Reader, text: str, mount: Mount) -> None:
    """-v, --tmpfs and --mount."""
    assert reader(text) == mount


@given(st.sampled_from([parse_volume, parse_tmpfs, parse_mount]), st.text("abc/:,=.-\"'\n ro"))
def test_any_mount_is_read_or_refused(reader: Reader, text: str) -> None:
    """And what is read has a clean absolute target below the root."""
    try:
        mount = reader(text)
    except ValueError:
        return
    assert mount.target.startswith("/")
    assert mount.target != "/"
    assert ".." not in mount.target.split("/")


def test_ids_are_hex_and_no_number() -> None:
    """A short id of digits only would be an address."""
    found = {new_id() for _ in range(50)}
    assert len(found) == 50
    assert all(len(one) == 64 and int(one, 16) and not one[:12].isdecimal() for one in found)


def test_names_are_checked() -> None:
    """docker's regular expression; a leading slash is dropped."""
    assert check_name("/web-1.a_b") == "web-1.a_b"
    for name in ("", "a", "-ab", "a b", "a/b", "../x", "ab\n", "é" * 3):
        with pytest.raises(InvalidParameter, match="only"):
            check_name(name)


def test_a_name_is_found_however_many_are_taken() -> None:
    """Words first, numbers when they run out."""
    assert check_name(random_name(lambda _: False))
    seen: list[str] = []

    def is_taken(name: str) -> bool:
        seen.append(name)
        return True

    assert random_name(is_taken) not in seen
    assert all(check_name(name) for name in seen)
