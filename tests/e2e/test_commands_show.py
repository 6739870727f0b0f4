"""The commands that show: ps, inspect, stats, top, events, logs, health, help."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.harness import RunningDaemon, wait_until
from tests.terminal import Terminal
from tests.traces import assert_no_more_than, assert_one_line, traces

pytestmark = pytest.mark.e2e

IDLE = ("busybox", "sleep", "999")


@pytest.fixture(scope="module")
def shared(busybox_tar: bytes) -> Iterator[RunningDaemon]:
    """Yield one daemon for all tests of this file."""
    daemon = RunningDaemon()
    daemon.start()
    daemon.load_busybox(busybox_tar)
    daemon.run("run", "--rm", "busybox", "true")
    yield daemon
    daemon.destroy()


@pytest.fixture
def served(shared: RunningDaemon) -> Iterator[RunningDaemon]:
    """Yield the daemon of this file without any container, and remove those of the test."""
    before = traces(shared)
    yield shared
    ids = shared.out("ps", "-aq").split()
    if ids:
        shared.run("rm", "-f", "-v", *ids)
    assert_no_more_than(before, shared)


def names(daemon: RunningDaemon, *flags: str) -> list[str]:
    """Return the names that ps shows, in its order."""
    return daemon.out("ps", "--format", "{{.Names}}", *flags).split()


def test_ps(served: RunningDaemon) -> None:
    """Which containers ps shows, in which order, and by which filters."""
    served.run("run", "--name", "ended", "-l", "tier=back", "busybox", "sh", "-c", "exit 3", code=3)
    served.run("run", "-d", "--name", "paused", "--tenant", "acme", *IDLE)
    served.run("pause", "paused")
    served.run("run", "-d", "--name", "running", "-l", "tier=front", "-v", "vol:/v", *IDLE)
    served.run("create", "--name", "made", "--network", "none", *IDLE)

    assert names(served) == ["running", "paused"]
    assert names(served, "-a") == ["made", "running", "paused", "ended"]
    assert names(served, "-l") == ["made"]
    assert names(served, "-n", "2") == ["made", "running"]
    for given, found in {
        "status=exited": ["ended"],
        "status=paused": ["paused"],
        "status=created": ["made"],
        "exited=3": ["ended"],
        "label=tier": ["running", "ended"],
        "label=tier=front": ["running"],
        "name=run": ["running"],
        "tenant=acme": ["paused"],
        "network=none": ["made"],
        "volume=vol": ["running"],
        "ancestor=busybox": ["made", "running", "paused", "ended"],
        "before=running": ["paused", "ended"],
        "since=running": ["made"],
        "health=none": ["made", "running", "paused", "ended"],
    }.items():
        assert names(served, "-a", "--filter", given) == found, given
    both = ("-a", "-f", "status=exited", "-f", "status=created")
    assert names(served, *both) == ["made", "ended"]
    assert_one_line(served.run("ps", "-f", "nonsense=1", code=None), (1, 125), "nonsense")
    assert_one_line(served.run("ps", "-f", "plain", code=None), (1, 125), "plain")
    assert_one_line(served.run("ps", "--format", "{{.Nonsense}}", code=None), (1, 125), "Nonsense")
    served.run("rm", "-f", "running")
    subprocess.run(["rm", "-r", str(served.root / "volumes/vol")], check=True)


def test_ps_shapes(served: RunningDaemon) -> None:
    """Columns, ids short and long, JSON lines and tables of chosen fields."""
    container = served.out("run", "-d", "--name", "box", "busybox", "sleep", "123456789012345")
    heading, line = served.out("ps").splitlines()
    assert heading.split() == [
        "CONTAINER",
        "ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]
    assert line.startswith(f"{container[:12]}   busybox")
    assert '"sleep 1234567890123…"' in line
    assert "Up" in line
    assert served.out("ps", "-q") == container[:12]
    assert served.out("ps", "-q", "--no-trunc") == container
    assert '"sleep 123456789012345"' in served.out("ps", "--no-trunc")
    shown = json.loads(served.out("ps", "--format", "json"))
    assert (shown["Names"], shown["State"], shown["Image"]) == ("box", "running", "busybox")
    table = served.out("ps", "--format", "table {{.Names}}\t{{.State}}").splitlines()
    assert [row.split() for row in table] == [["NAMES", "STATE"], ["box", "running"]]


def test_inspect(served: RunningDaemon) -> None:
    """The fields that docker's users read."""
    container = served.out(
        "run", "-d", "--name", "box", "-e", "A=b", "-l", "x=y", "-m", "64m", "--cpus", "0.5",
        "-h", "host", "-w", "/tmp", "-u", "user", "--restart", "on-failure:2", "-v", "/tmp:/t:ro",
        *IDLE,
    )  # fmt: skip
    (found,) = json.loads(served.out("inspect", "box"))
    assert (found["Id"], found["Name"]) == (container, "/box")
    assert found["State"]["Status"] == "running"
    assert found["State"]["Running"] is True
    assert found["State"]["Pid"] > 0
    assert found["State"]["StartedAt"].endswith("Z")
    assert (found["Path"], found["Args"]) == ("sleep", ["999"])
    config, host = found["Config"], found["HostConfig"]
    assert "A=b" in config["Env"]
    assert config["Labels"] == {"x": "y"}
    assert (config["Hostname"], config["WorkingDir"], config["User"]) == ("host", "/tmp", "user")
    assert (host["Memory"], host["CpuQuota"], host["CpuPeriod"]) == (64 << 20, 50_000, 100_000)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    (mount,) = found["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == ("/tmp", "/t", False)
    address = found["NetworkSettings"]["IPAddress"]
    assert served.out("exec", "box", "hostname", "-i") == address
    done = served.run("inspect", "box", "missing", code=1)
    assert len(json.loads(done.stdout)) == 1
    assert "missing" in done.stderr


def test_stats_and_top(served: RunningDaemon) -> None:
    """One reading of each container, as table and JSON; the processes as the host sees them."""
    served.run("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c",
               "while :; do :; done")  # fmt: skip
    served.run("run", "-d", "--name", "idle", *IDLE)
    rows = [
        json.loads(line)
        for line in served.out("stats", "--no-stream", "--format", "json").splitlines()
    ]
    assert {row["Name"] for row in rows} == {"busy", "idle"}
    (busy,) = [row for row in rows if row["Name"] == "busy"]
    (idle,) = [row for row in rows if row["Name"] == "idle"]
    assert float(busy["CPUPerc"].rstrip("%")) > 10 > float(idle["CPUPerc"].rstrip("%"))
    assert busy["MemUsage"].endswith(" / 64MiB")
    assert busy["PIDs"] == "1"
    heading, line = served.out("stats", "--no-stream", "idle").splitlines()
    assert heading.startswith("CONTAINER ID   NAME")
    assert "idle" in line
    container = served.out("ps", "-q", "--no-trunc", "-f", "name=idle")
    long = served.out("stats", "--no-stream", "--no-trunc", "--format", "{{.ID}}", "idle")
    assert long == container

    heading, line = served.out("top", "idle").splitlines()
    assert heading.split()[:2] == ["UID", "PID"]
    assert line.split()[1] == served.out("inspect", "-f", "{{.State.Pid}}", "idle")
    assert "sleep 999" in line
    assert served.out("top", "idle", "-o", "pid,comm").splitlines()[1].split()[1] == "sleep"
    served.run("stop", "-t", "0", "idle")
    assert_one_line(served.run("top", "idle", code=None), (1, 125), "not running")


def test_events(served: RunningDaemon) -> None:
    """Events of a span of time, by filters, as text, JSON and template; and as they happen."""
    since = f"{time.time():.9f}"
    live = served.popen(
        "events", "--since", since, "--filter", "event=die",
        "--format", "{{.Actor.Attributes.name}}", stdout=subprocess.PIPE,
    )  # fmt: skip
    assert live.stdout is not None
    with live.stdout as output:
        served.run("run", "--rm", "--name", "first", "-l", "x=y", "busybox", "sh", "-c", "exit 3",
                   code=3)  # fmt: skip
        served.run("run", "-d", "--name", "second", *IDLE)
        served.run("pause", "second")
        served.run("resume", "second")
        served.run("rename", "second", "third")
        served.run("rm", "-f", "third")
        span = ("--since", since, "--until", f"{time.time():.9f}")
        actions = [
            json.loads(line)
            for line in served.out("events", *span, "--format", "json").splitlines()
        ]
        of = {
            name: [
                item["Action"]
                for item in actions
                if item["Actor"]["Attributes"].get("name") == name and item["Type"] == "container"
            ]
            for name in ("first", "second", "third")
        }
        assert of["first"] == ["create", "start", "die", "destroy"]
        assert of["second"][:4] == ["create", "start", "pause", "unpause"]
        assert of["third"] == ["rename", "kill", "die", "destroy"]
        (die,) = [item for item in actions if item["Action"] == "die" and item["status"] == "die"
                  and item["Actor"]["Attributes"]["name"] == "first"]  # fmt: skip
        assert die["Actor"]["Attributes"]["exitCode"] == "3"
        assert die["Actor"]["Attributes"]["x"] == "y"
        lines = served.out("events", *span, "--filter", "container=first").splitlines()
        assert [line.split()[2] for line in lines] == of["first"]
        labelled = served.out("events", *span, "-f", "label=x=y", "-f", "event=start")
        assert labelled.count("\n") == 0
        assert output.readline() == b"first\n"
        live.terminate()
    live.wait(10)
    assert_one_line(served.run("events", "-f", "color=red", code=None), (1, 125), "color")
    assert_one_line(served.run("events", "--since", "noon", code=None), (1, 125), "noon")


def health(daemon: RunningDaemon, field: str = "Status") -> str:
    """Return what inspect says about a container's health."""
    return daemon.out("inspect", "-f", f"{{{{.State.Health.{field}}}}}", "box")


def test_health(served: RunningDaemon) -> None:
    """starting, healthy, unhealthy after the retries, healthy again; probes are in inspect."""
    distant = ("--health-cmd", "true", "--health-interval", "1h")
    served.run("run", "-d", "--name", "new", *distant, *IDLE)
    assert "(health: starting)" in served.out("ps", "--format", "{{.Status}}")
    served.run("rm", "-f", "new")
    served.run(
        "run", "-d", "--name", "box", "--health-cmd", "cat /ok", "--health-interval", "200ms",
        "--health-retries", "2", *IDLE,
    )  # fmt: skip
    wait_until(lambda: health(served) == "unhealthy")
    assert int(health(served, "FailingStreak")) >= 2
    served.run("exec", "box", "touch", "/ok")
    wait_until(lambda: health(served) == "healthy")
    assert "(healthy)" in served.out("ps", "--format", "{{.Status}}")
    assert names(served, "--filter", "health=healthy") == ["box"]
    log = json.loads(served.out("inspect", "-f", "{{json .State.Health.Log}}", "box"))
    assert 0 < len(log) <= 5
    assert log[-1]["ExitCode"] == 0
    served.run("pause", "box")
    assert health(served) == "healthy"
    served.run("resume", "box")


def test_health_that_takes_too_long(served: RunningDaemon) -> None:
    """A probe that outlives its timeout is killed and counts as a failure."""
    served.run(
        "run", "-d", "--name", "box", "--health-cmd", "sleep 77", "--health-interval", "100ms",
        "--health-timeout", "200ms", "--health-retries", "1", *IDLE,
    )  # fmt: skip
    wait_until(lambda: health(served) == "unhealthy")
    log = json.loads(served.out("inspect", "-f", "{{json .State.Health.Log}}", "box"))
    assert "timeout" in log[-1]["Output"]
    served.run("stop", "-t", "0", "box")
    assert "sleep 77" not in served.out("ps", "-a")


def test_log_rotation(served: RunningDaemon) -> None:
    """max-size and max-file bound the logs; the newest lines stay, in order, none doubled."""
    script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; done"
    container = served.out(
        "run", "-d", "--name", "box", "--log-opt", "max-size=8k", "--log-opt", "max-file=3",
        "busybox", "sh", "-c", f"{script}; sleep 99",
    )  # fmt: skip
    wait_until(lambda: served.out("logs", "--tail", "1", "box") == "line 4000")
    directory = served.root / "containers" / container
    logs = [path for path in directory.glob("log*") if "index" not in path.name]
    assert 1 < len(logs) <= 3
    shown = [int(line.split()[1]) for line in served.out("logs", "box").splitlines()]
    assert shown == list(range(shown[0], 4001))
    assert len(shown) > 500


def test_logs_follow_over_rotation(served: RunningDaemon) -> None:
    """A follower sees every line though the log is rotated under it."""
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done"
    served.run(
        "run", "-d", "--name", "box", "--log-opt", "max-size=16k", "--log-opt", "max-file=3",
        "busybox", "sh", "-c", f"until [ -e /go ]; do sleep 0.02; done; {script}",
    )  # fmt: skip
    follower = served.popen("logs", "-f", "box", stdout=subprocess.PIPE)
    served.run("exec", "box", "touch", "/go")
    output, _ = follower.communicate(timeout=30)
    assert output.decode().splitlines() == [f"line {number}" for number in range(1, 3001)]
    assert follower.returncode == 0


def test_exec_in_a_terminal(served: RunningDaemon) -> None:
    """exec -it has a pty of the client's size, follows its changes, and passes the code on."""
    served.run("run", "-d", "--name", "box", *IDLE)
    with Terminal(served, "exec", "-it", "box", "sh", rows=31, columns=97) as terminal:
        terminal.type("stty size; echo do''ne\n")
        terminal.expect(r"31 97\s+done")
        terminal.resize(41, 99)
        terminal.type("sleep 0.1; stty size; echo do''ne\n")
        terminal.expect(r"41 99\s+done")
        terminal.type("exit 9\n")
        assert terminal.wait() == 9


def test_attach_and_detach(served: RunningDaemon) -> None:
    """attach joins the running shell; the detach keys leave it running, also other ones."""
    served.run("run", "-dit", "--name", "box", "busybox", "sh")
    with Terminal(served, "attach", "--detach-keys", "ctrl-x,x", "box") as terminal:
        terminal.type("echo fir''st\n")
        terminal.expect("first")
        terminal.type("\x18x")
        assert terminal.wait() == 0
    assert served.out("inspect", "-f", "{{.State.Status}}", "box") == "running"
    with Terminal(served, "attach", "box") as terminal:
        terminal.type("echo sec''ond; exit 6\n")
        terminal.expect("second")
        assert terminal.wait() == 6


def test_help_of_every_command(served: RunningDaemon) -> None:
    """COMMAND --help is docker's shape for each; wrong flags and counts name it."""
    overview = served.out("--help")
    commands = {
        line.split()[0]
        for line in overview.splitlines()
        if line.startswith("  ") and line[2:3].isalpha()
    }
    expected = (
        "run create start stop kill restart pause resume rm ps logs attach exec wait inspect stats"
        " top events update rename info version import load images rmi tag"
    )
    assert set(expected.split()) <= commands, set(expected.split()) - commands
    for command in sorted(commands - {"daemon"}):
        text = served.out(command, "--help")
        assert text.lstrip().startswith(f"Usage:  aruntime {command}"), command
        assert len(text.splitlines()) >= 3, command
        if f"aruntime {command} COMMAND" in text:
            continue  # a group; its commands are those of the overview
        done = served.run(command, "--no-such-flag", code=None)
        assert_one_line(done, 125, "unknown flag: --no-such-flag")
        assert f"'aruntime {command} --help'" in done.stderr
