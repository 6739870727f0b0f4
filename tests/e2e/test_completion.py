"""Tab completion in real shells on a pty: names come from the running daemon."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.harness import RunningDaemon

pytestmark = pytest.mark.e2e

TAB, LINE_START, LINE_END = "\t", "\x01", "\x05"
ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[a-zA-Z]|[=>(][A-Z0-9]?)|\r|\x07")

SETUP = {
    "bash": "PS1='$ '; bind 'set enable-bracketed-paste off'; source <(aruntime completion bash)",
    "zsh": "PS1='$ '; autoload -U compinit; compinit -u -D; source <(aruntime completion zsh)",
}
START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}


class Shell:
    """An interactive shell on a pty of its own; owns the master end and the process."""

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", require_program(name), *START[name]],
            stdin=slave, stdout=slave, stderr=slave, env=env,
        )  # fmt: skip
        os.close(slave)

    def send(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Read until the output since the last match has the pattern."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} not in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += ESCAPE.sub("", os.read(self.master, 4096).decode(errors="replace"))

    def completed(self, line: str) -> str:
        """The line after TAB: made visible by putting an echo around it."""
        self.send(f"{line}{TAB}{LINE_START}echo '[' {LINE_END} ']'\n")
        return self.expect(r"\n\[ (.*?)\s+\]").group(1)

    def close(self) -> None:
        """End the shell and its children."""
        os.close(self.master)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def containers(daemon: RunningDaemon) -> RunningDaemon:
    """A daemon with one container in each state of interest."""
    own = ("--network", "none", "busybox")
    daemon.run("create", "--name", "web-idle", *own, "true")
    daemon.run("run", "-d", "--name", "web-busy", *own, "sleep", "1000")
    daemon.run("run", "-d", "--name", "web-cold", *own, "sleep", "1000")
    daemon.run("pause", "web-cold")
    daemon.run("tag", "busybox", "busybox:other")
    daemon.run("network", "create", "backstage")
    return daemon


LINES = {
    "aruntime start web-i": "aruntime start web-idle",
    "aruntime stop web-b": "aruntime stop web-busy",
    "aruntime resume w": "aruntime resume web-cold",
    "aruntime rm web-idle web-c": "aruntime rm web-idle web-cold",
    "aruntime run --rm busybox:o": "aruntime run --rm busybox:other",
    "aruntime run --rm busyb": "aruntime run --rm busybox",
    "aruntime cp web-i": "aruntime cp web-idle:",
    "aruntime cp /etc/hostna": "aruntime cp /etc/hostname",
    "aruntime image histo": "aruntime image history",
    "aruntime image rm busybox:o": "aruntime image rm busybox:other",
    "aruntime network insp": "aruntime network inspect",
    "aruntime network rm back": "aruntime network rm backstage",
    "aruntime run --network back": "aruntime run --network backstage",
    "aruntime run --network hos": "aruntime run --network host",
    "aruntime kill --signal KIL": "aruntime kill --signal KILL",
    "aruntime unp": "aruntime unpause",
    "aruntime run --net none --privi": "aruntime run --net none --privileged",
}


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_lines_are_completed(containers: RunningDaemon, name: str) -> None:
    """Names by state, images over the colon, values, commands, flags."""
    program = Path(containers.client).parent
    env = {**containers.env, "PATH": f"{program}:/usr/bin:/bin", "TERM": "xterm"}
    shell = Shell(name, env)
    try:
        shell.send(f"{SETUP[name]}; echo rea''dy\n")
        shell.expect("ready")
        assert {line: shell.completed(line) for line in LINES} == LINES
    finally:
        shell.close()


def test_a_name_starts_no_daemon(daemon: RunningDaemon, tmp_path: Path) -> None:
    """TAB without a daemon offers nothing and leaves the run directory as it was."""
    file = tmp_path / "aruntime.bash"
    file.write_text(daemon.out("completion", "bash"))
    daemon.stop()
    before = sorted(path.name for path in daemon.run_dir.iterdir())
    ask = 'source "$1"; COMP_LINE="aruntime rm " COMP_POINT=12; _aruntime; echo ${#COMPREPLY[@]}'
    env = {name: value for name, value in daemon.env.items() if name != "ARUNTIME_HOST"}
    done = subprocess.run(
        [require_program("bash"), "--norc", "-c", ask, "bash", str(file)],
        env={**env, "PATH": f"{Path(daemon.client).parent}:/usr/bin:/bin"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert sorted(path.name for path in daemon.run_dir.iterdir()) == before
