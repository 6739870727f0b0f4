"""Paths of foreign cgroups: whose container they tell of, and which of them a pattern means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import InvalidParameter
from aruntime.metering.foreign.paths import Origin, origin
from aruntime.metering.foreign.patterns import DESCEND, IGNORE, METER, Selection, parse, parse_all

ID = "0123456789abcdef" * 4
POD = "3f2b6c1e-8f0d-4c55-9d0e-2a1b3c4d5e6f"
POD_UNIT = POD.replace("-", "_")
SLICE = f"kubepods-burstable.slice/kubepods-burstable-pod{POD_UNIT}.slice"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/docker/{ID}", Origin("docker", ID)),
        (f"/system.slice/docker-{ID}.scope", Origin("docker", ID)),
        (f"/libpod_parent/libpod-{ID}", Origin("podman", ID)),
        (f"/machine.slice/libpod-{ID}.scope", Origin("podman", ID)),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
         Origin("podman", ID)),
        (f"/libpod_parent/{ID}/libpod-{ID}", Origin("podman", ID)),
        (f"/kubepods/burstable/pod{POD}/{ID}", Origin("kubernetes", ID, POD, "burstable")),
        (f"/kubepods/pod{POD}/{ID}", Origin("kubernetes", ID, POD, "guaranteed")),
        (f"/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope",
         Origin("kubernetes", ID, POD, "burstable")),
        (f"/kubepods.slice/kubepods-pod{POD_UNIT}.slice/crio-{ID}.scope",
         Origin("kubernetes", ID, POD, "guaranteed")),
        (f"/kubepods/besteffort/pod{POD}/crio-{ID}",
         Origin("kubernetes", ID, POD, "besteffort")),
        (f"/kubepods/besteffort/pod{POD}/docker-{ID}.scope",
         Origin("kubernetes", ID, POD, "besteffort")),
        (f"/anything/{ID}", Origin("", ID)),
        ("/", None),
        ("/docker", None),
        ("/libpod_parent/conmon", None),
        (f"/libpod_parent/{ID}", None),
        (f"/machine.slice/libpod-conmon-{ID}.scope", None),
        (f"/kubepods.slice/{SLICE}/crio-conmon-{ID}.scope", None),
        (f"/kubepods/burstable/pod{POD}", None),
        (f"/docker/{ID[:-1]}", None),
        (f"/docker/{ID.upper()}", None),
        (f"/docker/{ID}/init", None),
        ("/system.slice/docker.service", None),
    ],
)  # fmt: skip
def test_origin(path: str, expected: Origin | None) -> None:
    """Every documented form is recognised, its neighbours are not."""
    assert origin(path) == expected


@pytest.mark.parametrize(
    ("pattern", "path", "role"),
    [
        ("/docker", "/", DESCEND),
        ("/docker", "/docker", DESCEND),
        ("/docker", "/docker/group", DESCEND),
        ("/docker", f"/docker/{ID}", METER),
        ("/docker", f"/docker/group/{ID}", METER),
        ("/docker", "/podman", IGNORE),
        ("/docker", "/dockers", IGNORE),
        ("/docker/", f"/docker/{ID}", METER),
        ("/", "/system.slice", DESCEND),
        ("/", f"/system.slice/docker-{ID}.scope", METER),
        ("/system.slice/*.service", "/system.slice", DESCEND),
        ("/system.slice/*.service", "/system.slice/cron.service", METER),
        ("/system.slice/*.service", "/system.slice/cron.socket", IGNORE),
        ("/system.slice/*.service", "/other", IGNORE),
        ("/a/*/c", "/a/b", DESCEND),
        ("/a/*/c", "/a/b/c", METER),
        ("/a/*/c", "/a/b/d", IGNORE),
        ("/job-[0-9]", "/job-7", METER),
        ("/job-[0-9]", "/job-x", IGNORE),
        ("/JOB*", "/job", IGNORE),
        ("=/batch/a", "/batch", DESCEND),
        ("=/batch/a", "/batch/a", METER),
        ("=/batch/a", "/batch/b", IGNORE),
        ("=/batch/a", "/batch/a/below", IGNORE),
    ],
)
def test_role(pattern: str, path: str, role: str) -> None:
    """A tree means the containers in it, wildcards what fits, = one group."""
    assert Selection([parse(pattern)]).role(path) == role


def test_own_containers_are_never_foreign() -> None:
    """Whatever the pattern: what is below our own parent is counted already."""
    selection = Selection(parse_all(["/,/aruntime/*"]), excluded=["/aruntime"])
    assert selection.role(f"/aruntime/{ID}") == IGNORE
    assert selection.role("/aruntime") == IGNORE
    assert selection.role(f"/other/{ID}") == METER


def test_patterns_are_lists_and_count_once() -> None:
    """Flags may be repeated and hold commas; the same pattern is one."""
    found = parse_all(["/docker, /kubepods", "/docker/", "=/a", ""])
    assert [pattern.text for pattern in found] == ["/docker", "/kubepods", "=/a"]


def test_matching_names_the_patterns() -> None:
    """What a group fits is told, for the marks that are kept per pattern."""
    selection = Selection(parse_all(["/docker,/docker/*,/x"]))
    assert [p.text for p in selection.matching(f"/docker/{ID}")] == ["/docker", "/docker/*"]


@pytest.mark.parametrize("text", ["docker", "/a/../b", "./a", "=/a/*", "=/", "=docker", "/a\0b"])
def test_bad_pattern_is_refused(text: str) -> None:
    """The message names the pattern and shows good ones."""
    with pytest.raises(InvalidParameter, match="invalid cgroup pattern"):
        parse(text)


@given(st.lists(st.sampled_from(["docker", "kubepods", "a", "pod1", ID, f"libpod-{ID}"])))
def test_nothing_below_a_metered_group_is_metered(parts: list[str]) -> None:
    """Walking down as the watch does, at most one group on any path is metered."""
    selection = Selection(parse_all(["/", "/a/*", "/docker/*"]), excluded=["/own"])
    metered = 0
    for depth in range(len(parts) + 1):
        role = selection.role("/" + "/".join(parts[:depth]))
        metered += role == METER
        if role != DESCEND:
            break
    assert metered <= 1
