"""Image configurations as they are found, and times."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import InvalidArchive
from aruntime.images.image import Healthcheck, format_time_ns, parse_config, parse_time_ns


def parsed(**config: Any) -> Any:
    """Parse a configuration with this run configuration."""
    return parse_config(json.dumps({"config": config, "rootfs": {"diff_ids": []}}).encode()).config


def test_everything_docker_writes_is_read() -> None:
    """Each field of docker's configuration has its place."""
    found = parsed(
        Entrypoint=["/entry"], Cmd=["a", "b"], Env=["A=1"], WorkingDir="/w", User="1:2",
        Labels={"k": "v"}, ExposedPorts={"80/tcp": {}, "53/udp": {}}, Volumes={"/data": {}},
        StopSignal="SIGINT", Shell=["/bin/bash", "-c"], OnBuild=["RUN x"],
        Healthcheck={"Test": ["CMD", "x"], "Interval": 5_000_000_000, "Retries": 2},
    )  # fmt: skip

    assert (found.entrypoint, found.cmd, found.env) == (("/entry",), ("a", "b"), ("A=1",))
    assert (found.working_dir, found.user, found.labels) == ("/w", "1:2", {"k": "v"})
    assert (found.exposed_ports, found.volumes) == (("53/udp", "80/tcp"), ("/data",))
    assert (found.stop_signal, found.shell) == ("SIGINT", ("/bin/bash", "-c"))
    assert found.on_build == ("RUN x",)
    assert found.healthcheck == Healthcheck(test=("CMD", "x"), interval_ns=5_000_000_000, retries=2)


def test_null_and_absent_are_empty() -> None:
    """docker writes null for what is not set, and a lone string where it once had one."""
    found = parsed(Entrypoint=None, Cmd="top", Env=None, Labels=None, Volumes=None, User=None)

    assert (found.entrypoint, found.cmd, found.env, found.labels) == ((), ("top",), (), {})
    assert parse_config(b'{"rootfs":{},"config":null}').config.cmd == ()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"{}", b'{"rootfs":1}', b'{"rootfs":{"diff_ids":[1]}}', b"[" * 100_000,
        b'{"rootfs":{},"config":{"Env":[1]}}', b'{"rootfs":{},"config":{"Labels":{"a":1}}}',
    ],
)  # fmt: skip
def test_malformed_configurations_are_refused(text: bytes) -> None:
    """A field of the wrong type is an error, not a surprise later."""
    with pytest.raises(InvalidArchive):
        parse_config(text)


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2024-05-06T07:08:09.123456789Z", 1_714_979_289_123_456_789),
        ("2024-05-06T09:08:09.5+02:00", 1_714_979_289_500_000_000),
        ("0001-01-01T00:00:00Z", 0),
        ("2024-13-01T00:00:00Z", 0),
        ("yesterday", 0),
        ("", 0),
    ],
)
def test_times(text: str, time_ns: int) -> None:
    """RFC 3339 to the nanosecond; what is no time is 0."""
    assert parse_time_ns(text) == time_ns


@given(st.integers(1, 4_000_000_000_000_000_000))
def test_times_survive_being_written(time_ns: int) -> None:
    """What is written is read back exactly."""
    assert parse_time_ns(format_time_ns(time_ns)) == time_ns


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_an_error(text: bytes) -> None:
    """Fuzz: nothing but InvalidArchive comes out."""
    try:
        parse_config(text)
    except InvalidArchive:
        pass
