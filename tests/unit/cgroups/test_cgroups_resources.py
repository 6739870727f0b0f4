"""What linux.resources may say: docker's rules, the kernel's ranges, the forms of the values."""

from __future__ import annotations

from typing import Any

import pytest

from aruntime.cgroups import resources
from aruntime.errors import InvalidParameter

MIB = 1 << 20
ROW = {"major": 254, "minor": 0}


@pytest.mark.parametrize(
    "valid",
    [
        {},
        {"memory": {"limit": 200 * MIB, "swap": 300 * MIB, "swappiness": 0}},
        {"memory": {"limit": -1, "swap": -1, "reservation": -1}},
        {"memory": {"limit": 6 * MIB, "swap": 6 * MIB, "swappiness": 100}},
        {"cpu": {"shares": 2, "quota": -1, "period": 1000, "cpus": "0", "mems": "0,1"}},
        {"cpu": {"shares": 262144, "quota": 1000, "period": 1_000_000, "burst": 1000}},
        {"cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1_000_000, "idle": 1}},
        {"blockIO": {"weight": 10, "weightDevice": [{**ROW, "weight": 0}]}},
        {"blockIO": {"throttleReadBpsDevice": [{**ROW, "rate": 0}]}},
        {"pids": {"limit": 0}, "unified": {"memory.high": "max"}},
    ],
)
def test_valid_resources_pass(valid: dict[str, Any]) -> None:
    """Values at the ends of their ranges are taken."""
    resources.validate(valid)
    resources.validate_docker(valid)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": {"limit": 300, "swap": 200}}, "minimum memoryswap limit"),
        ({"memory": {"limit": -1, "swap": 200}}, "needs a memory limit"),
        ({"memory": {"limit": 100, "reservation": 200}}, "reservation"),
        ({"memory": {"limit": -2}}, "-1 for none"),
        ({"memory": {"swappiness": 101}}, "0-100"),
        ({"memory": {"limit": "1g"}}, "whole number"),
        ({"memory": {"limit": 1.5}}, "whole number"),
        ({"memory": {"limit": True}}, "whole number"),
        ({"memory": [1]}, "must be an object"),
        ({"cpu": {"shares": 1}}, "minimum allowed cpu-shares is 2"),
        ({"cpu": {"shares": 262145}}, "maximum allowed cpu-shares is 262144"),
        ({"cpu": {"period": 999}}, "cfs period"),
        ({"cpu": {"period": 1_000_001}}, "cfs period"),
        ({"cpu": {"quota": 999}}, "cfs quota"),
        ({"cpu": {"quota": -2}}, "cfs quota"),
        ({"cpu": {"quota": 1000, "burst": 1001}}, "burst"),
        ({"cpu": {"burst": -1}}, "burst"),
        ({"cpu": {"cpus": "0-"}}, "cpuset cpus"),
        ({"cpu": {"mems": "x"}}, "cpuset mems"),
        ({"cpu": {"cpus": 3}}, "cpuset cpus"),
        ({"cpu": {"realtimeRuntime": 2, "realtimePeriod": 1}}, "cannot be higher"),
        ({"cpu": {"realtimePeriod": -1}}, "negative"),
        ({"cpu": {"idle": 2}}, "idle"),
        ({"blockIO": {"weight": 1001}}, "10 to 1000"),
        ({"blockIO": {"weightDevice": [{**ROW, "weight": 1001}]}}, "254:0"),
        ({"blockIO": {"weightDevice": [{"major": 1}]}}, "weightDevice"),
        ({"blockIO": {"throttleReadBpsDevice": [{**ROW, "rate": -1}]}}, "throttleReadBpsDevice"),
        ({"blockIO": {"throttleWriteIOPSDevice": ["254:0"]}}, "throttleWriteIOPSDevice"),
        ({"unified": {"../x.y": "1"}}, "unified"),
        ({"unified": {"memory.high": 5}}, "unified"),
        ({"unified": {"memory": "5"}}, "unified"),
    ],
)
def test_wrong_resources_are_named(wrong: dict[str, Any], words: str) -> None:
    """Each wrong value is refused in one line that says what it is."""
    with pytest.raises(InvalidParameter, match=words) as caught:
        resources.validate(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": {"limit": 6 * MIB - 1}}, "minimum memory limit allowed is 6MB"),
        ({"memory": {"swap": 100 * MIB}}, "should always set the memory limit"),
        ({"memory": {"reservation": 1}}, "minimum memory reservation"),
        ({"blockIO": {"weight": 9}}, "10 to 1000"),
    ],
)
def test_docker_rules_come_on_top(wrong: dict[str, Any], words: str) -> None:
    """What the specification allows and docker run does not."""
    resources.validate(wrong)
    with pytest.raises(InvalidParameter, match=words):
        resources.validate_docker(wrong)


@pytest.mark.parametrize(
    ("memory", "swap", "expected"),
    [(200, 0, 400), (200, 300, 300), (200, -1, -1), (0, 0, 0), (-1, 0, 0)],
)
def test_default_swap(memory: int, swap: int, expected: int) -> None:
    """Only memory given: as much swap again."""
    assert resources.default_swap(memory, swap) == expected


def test_cpus() -> None:
    """--cpus 1.5 is 150 ms in 100 ms, and may not exceed the host."""
    assert resources.cpus_to_quota(1_500_000_000) == (150_000, 100_000)
    resources.check_cpus(2_000_000_000, 2)
    for nano_cpus in (2_000_000_001, 9_999_999, -1):
        with pytest.raises(InvalidParameter, match="only 2 CPUs"):
            resources.check_cpus(nano_cpus, 2)
