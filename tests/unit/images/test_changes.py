"""Dockerfile instructions of ``--change``."""

from __future__ import annotations

from typing import Any

import pytest

from aruntime.errors import InvalidParameter
from aruntime.images.changes import apply_changes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('CMD ["a", "b c"]', {"Cmd": ["a", "b c"]}),
        ("CMD echo hi", {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        ("cmd []", {"Cmd": []}),
        ('ENTRYPOINT ["/e"]', {"Entrypoint": ["/e"]}),
        ("ENTRYPOINT exec top -b", {"Entrypoint": ["/bin/sh", "-c", "exec top -b"]}),
        ("ENV A=1 B=\"x y\" C='$A'", {"Env": ["A=1", "B=x y", "C=$A"]}),
        ("ENV KEY some words", {"Env": ["KEY=some words"]}),
        ("ENV A=a\\ b", {"Env": ["A=a b"]}),
        ("EXPOSE 80 53/udp 8000-8001", {
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
        }),
        ("LABEL a=b \"c d\"=\"e f\"", {"Labels": {"a": "b", "c d": "e f"}}),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ("WORKDIR /a/../b", {"WorkingDir": "/b"}),
        ("WORKDIR rel", {"WorkingDir": "/rel"}),
        ('VOLUME ["/a", "/b"]', {"Volumes": {"/a": {}, "/b": {}}}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ("STOPSIGNAL SIGINT", {"StopSignal": "SIGINT"}),
        ("ONBUILD RUN make", {"OnBuild": ["RUN make"]}),
        ('SHELL ["/bin/bash", "-c"]\nCMD x', {
            "Shell": ["/bin/bash", "-c"], "Cmd": ["/bin/bash", "-c", "x"],
        }),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        ("HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x", {
            "Healthcheck": {
                "Test": ["CMD-SHELL", "curl -f x"], "Interval": 90_000_000_000, "Retries": 3,
            },
        }),
        ('HEALTHCHECK CMD ["a", "b"]', {"Healthcheck": {"Test": ["CMD", "a", "b"]}}),
        ("# a comment\nUSER \\\n  me", {"User": "me"}),
    ],
)  # fmt: skip
def test_instructions(change: str, expected: dict[str, Any]) -> None:
    """Each instruction sets what the Dockerfile reference says, in JSON and shell form."""
    assert apply_changes({}, [change]) == expected


def test_later_instructions_build_on_earlier_ones() -> None:
    """Variables are expanded, maps grow, the working directory is relative to the last one."""
    changed = apply_changes(
        {"Env": ["PATH=/bin"], "Labels": {"a": "1"}},
        [
            "ENV ROOT=/srv PATH=$PATH:/opt",
            "WORKDIR ${ROOT}/www",
            "WORKDIR logs",
            "LABEL b=${NONE:-two} c=${ROOT:+set}x",
        ],
    )

    assert changed["Env"] == ["PATH=/bin:/opt", "ROOT=/srv"]
    assert changed["WorkingDir"] == "/srv/www/logs"
    assert changed["Labels"] == {"a": "1", "b": "two", "c": "setx"}


def test_the_given_configuration_stays_as_it_is() -> None:
    """The function is pure."""
    config: dict[str, Any] = {"Labels": {"a": "1"}}

    apply_changes(config, ["LABEL b=2"])

    assert config == {"Labels": {"a": "1"}}


@pytest.mark.parametrize(
    "change",
    [
        "RUN make", "FROM x", "COPY a b", "nonsense", "CMD", "ENV", "ENV A", "ENV =x", "ENV A=1 B",
        "EXPOSE x", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 9-8", "EXPOSE 80/icmp", "USER", "USER a b",
        "WORKDIR", "VOLUME", 'VOLUME [""]', "HEALTHCHECK", "HEALTHCHECK CMD", "SHELL /bin/sh",
        "HEALTHCHECK --retries=0 CMD x", "HEALTHCHECK --interval=1 CMD x", "HEALTHCHECK --x=1 NONE",
        'LABEL a="b', "ONBUILD",
    ],
)  # fmt: skip
def test_malformed_changes_are_refused(change: str) -> None:
    """An unknown or malformed instruction is an error of one line that quotes it."""
    with pytest.raises(InvalidParameter) as caught:
        apply_changes({}, [change])

    assert change.split()[0] in caught.value.message
    assert "\n" not in caught.value.message
