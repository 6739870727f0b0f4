"""volume, system df, and the prunes: what nobody uses goes, and nothing else."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests import archives
from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e


def answered(daemon: RunningDaemon, answer: bytes, *args: str) -> str:
    """Run a command that asks, and answer."""
    done = subprocess.run(
        [daemon.client, *args], env=daemon.env, input=answer, capture_output=True, check=True
    )
    return done.stdout.decode()


def test_volumes(shared_daemon: RunningDaemon) -> None:
    """Made, listed, shown, mounted, and removed once nobody mounts them."""
    daemon = shared_daemon
    assert daemon.out("volume", "create", "--label", "a=b", "data") == "data"
    assert daemon.out("volume", "create", "data") == "data"
    anonymous = daemon.out("volume", "create")
    assert len(anonymous) == 64
    daemon.run("run", "--name", "user", "-v", "data:/d", "busybox", "sh", "-c", "echo 1 >/d/f")

    assert daemon.out("volume", "ls").splitlines()[0].split() == ["DRIVER", "VOLUME", "NAME"]
    assert daemon.out("volume", "ls", "-q").split() == sorted([anonymous, "data"])
    for text, names in (
        ("dangling=true", [anonymous]), ("dangling=false", ["data"]), ("label=a", ["data"]),
        ("label=a=c", []), ("name=at", ["data"]), ("driver=local", sorted([anonymous, "data"])),
    ):  # fmt: skip
        assert daemon.out("volume", "ls", "-qf", text).split() == names
    shown = json.loads(daemon.out("volume", "inspect", "data"))[0]
    assert (shown["Name"], shown["Driver"], shown["Labels"]) == ("data", "local", {"a": "b"})
    assert (shown["Mountpoint"]) == f"{daemon.root}/volumes/data/_data"
    assert daemon.out("inspect", "--type", "volume", "-f", "{{.Name}}", "data") == "data"
    refused = daemon.run("volume", "rm", "data", code=1)
    assert "it is in use by " in refused.stderr
    daemon.run("rm", "user")
    assert daemon.out("volume", "rm", "data", anonymous).split() == ["data", anonymous]
    assert "no such volume" in daemon.run("volume", "rm", "data", code=1).stderr
    assert daemon.run("volume", "rm", "-f", "data").stdout == ""
    assert "no such volume" in daemon.run("volume", "inspect", "../x", code=1).stderr
    for args, message in (
        (("create", "-d", "nfs", "x"), "there is no volume driver 'nfs'"),
        (("create", "../x"), "is invalid"),
        (("create", "-o", "type=nfs", "x"), "use a bind mount"),
        (("ls", "-f", "x=y"), "invalid filter 'x'"),
    ):
        assert message in daemon.run("volume", *args, code=125).stderr


def test_prune_asks(daemon: RunningDaemon) -> None:
    """Anything but yes removes nothing."""
    daemon.run("run", "--name", "done", "-v", "/anonymous", "-v", "named:/n", "busybox", "true")
    daemon.run("run", "-d", "--name", "busy", "busybox", "sleep", "999")
    for answer in (b"n\n", b"\n", b"", b"yess\n"):
        text = answered(daemon, answer, "container", "prune")
        assert text.startswith("WARNING! This will remove all stopped containers.\n")
        assert text.endswith("[y/N] ")
    done = daemon.out("inspect", "-f", "{{.Id}}", "done")
    text = answered(daemon, b"y\n", "container", "prune")
    assert f"Deleted Containers:\n{done}\n\nTotal reclaimed space: " in text
    assert daemon.out("ps", "-a", "--format", "{{.Names}}") == "busy"

    volumes = daemon.out("volume", "ls", "-q").split()
    assert len(volumes) == 2
    text = daemon.out("volume", "prune", "-f")
    assert "Deleted Volumes:\n" in text
    assert daemon.out("volume", "ls", "-q") == "named"
    assert "named" in daemon.out("volume", "prune", "-af")
    assert daemon.out("volume", "ls", "-q") == ""


def test_image_prune(daemon: RunningDaemon) -> None:
    """Nameless images go; with -a all that no container uses; filters hold some back."""

    def load(name: str, content: bytes, *change: str) -> str:
        flags = [word for line in change for word in ("-c", line)]
        return daemon.out("import", *flags, "-", name, stdin=archives.tar(
            archives.file("f", content)))  # fmt: skip

    old = load("moved", b"1" * 5000)
    load("moved", b"2")
    load("kept", b"3", "LABEL keep=1")
    daemon.run("tag", "kept", "elsewhere/kept:2")
    daemon.run("create", "--name", "holder", "busybox", "true")

    text = daemon.out("image", "prune", "-f")
    assert text.startswith(f"Deleted Images:\ndeleted: {old}\n")
    assert text.endswith("Total reclaimed space: 5kB")
    assert daemon.out("image", "prune", "-f") == "Total reclaimed space: 0B"
    assert "kept" not in daemon.out("image", "prune", "-af", "--filter", "label!=keep")
    assert daemon.out("image", "prune", "-af", "--filter", "until=1h").endswith(" 0B")
    assert "untagged: elsewhere/kept:2" in daemon.out("image", "prune", "-af")
    assert daemon.out("images", "--format", "{{.Repository}}") == "busybox"
    assert len(list((daemon.root / "images/layers").glob("*.json"))) == 1
    assert "invalid filter 'x'" in daemon.run("image", "prune", "-f", "--filter", "x=y",
                                              code=125).stderr  # fmt: skip


def test_system_df_and_prune(daemon: RunningDaemon) -> None:
    """Sizes by kind, what is shared, and everything unused gone at once."""
    base = archives.tar(archives.file("base", b"b" * 10_000))
    both = [base, archives.tar(archives.file("own", b"o" * 2_000))]
    daemon.run("load", stdin=archives.docker_archive([base], "one:1"))
    daemon.run("load", stdin=archives.docker_archive(both, "two:1"))
    daemon.run("network", "create", "lonely")
    script = "head -c 30000 /dev/zero >/f; head -c 7000 /dev/zero >/d/f"
    daemon.run("run", "--name", "box", "-v", "data:/d", "busybox", "sh", "-c", script)

    rows = [json.loads(line) for line in daemon.out("system", "df", "--format", "json").split("\n")]
    figures = {row["Type"]: (row["TotalCount"], row["Active"], row["Size"]) for row in rows}
    assert figures["Images"][:2] == ("3", "1")
    assert figures["Containers"] == ("1", "0", "30kB")
    assert figures["Local Volumes"] == ("1", "1", "7kB")
    assert rows[0]["Reclaimable"].startswith("12kB (0%)")
    shown = "{{.Repository}} {{.SharedSize}} {{.UniqueSize}}"
    assert daemon.out("images", "--format", shown, "two") == "two 10kB 2kB"
    detailed = json.loads(daemon.out("system", "df", "-v", "--format", "json"))
    sizes = {
        row["Repository"]: (row["SharedSize"], row["UniqueSize"]) for row in detailed["Images"]
    }
    assert (sizes["one"], sizes["two"]) == (("10kB", "0B"), ("10kB", "2kB"))
    assert (detailed["Volumes"][0]["Links"], detailed["Containers"][0]["Size"]) == ("1", "30kB")
    text = daemon.out("system", "df", "-v")
    assert text.count("space usage:\n\n") == 3
    assert daemon.out("ps", "-as", "--format", "{{.Size}}").startswith("30kB (virtual ")
    assert "SIZE" in daemon.out("ps", "-as").splitlines()[0]
    inspected = json.loads(daemon.out("inspect", "-s", "box"))[0]
    assert inspected["SizeRw"] == 30_000
    assert inspected["SizeRootFs"] > 1_000_000

    text = daemon.out("system", "prune", "-af", "--volumes")
    for title in ("Deleted Containers:", "Deleted Networks:\nlonely\n", "Deleted Images:"):
        assert title in text
    assert daemon.out("volume", "ls", "-q") == "data"  # it has a name
    assert daemon.out("images", "-q") == ""
    assert "- all dangling images\n" in answered(daemon, b"n\n", "system", "prune")
