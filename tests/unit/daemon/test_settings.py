"""Settings: which source wins, what is refused, what a reload changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from aruntime.daemon import settings
from aruntime.daemon.commands.flags import parse
from aruntime.daemon.commands.system import DAEMON
from aruntime.daemon.readers import Reader
from aruntime.errors import InvalidParameter


def load(
    *words: str, env: dict[str, str] | None = None, file: Path | None = None
) -> settings.Settings:
    """Settings of a command line; without a file, of one that does not exist."""
    config = ["--config", str(file)] if file else []
    if file is None:
        assert not Path(settings.DEFAULT_CONFIG).exists()
    return settings.load(parse(DAEMON, [*config, *words]), env or {})


def config_file(tmp_path: Path, text: str) -> Path:
    """A configuration file with this text."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    """Without anything given the documented defaults hold."""
    chosen = load()
    assert chosen.root == Path("/var/lib/aruntime")
    assert chosen.run_dir == Path("/run/aruntime")
    assert chosen.socket == Path("/run/aruntime/aruntime.sock")
    assert (chosen.poll_interval, chosen.slow_interval) == (1.0, 10.0)
    assert chosen.metrics_address == "127.0.0.1:9640"
    assert (chosen.bridge, chosen.subnet) == ("aruntime0", "172.29.0.0/16")
    assert chosen.cgroup_parent == "/aruntime"


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """The nearer to the user, the stronger."""
    file = config_file(tmp_path, 'root = "/from/file"\nrun-dir = "/file"\nbridge = "br7"\n')
    env = {"ARUNTIME_ROOT": "/from/env", "ARUNTIME_RUN_DIR": "/env"}
    chosen = load("--root", "/from/flag", env=env, file=file)
    assert chosen.root == Path("/from/flag")
    assert chosen.run_dir == Path("/env")
    assert chosen.socket == Path("/env/aruntime.sock")
    assert chosen.bridge == "br7"


def test_ledger_key_is_never_in_the_root() -> None:
    """By default beside the configuration, or beside another root; none by choice."""
    assert load().ledger.key == Path("/etc/aruntime/ledger.key")
    assert load("--root", "/srv/a").ledger.key == Path("/srv/a.ledger.key")
    assert load("--ledger-key", "/keys/k").ledger.key == Path("/keys/k")
    assert load("--ledger-key", "none").ledger.key is None


def test_ledger_retention(tmp_path: Path) -> None:
    """Days, from the file as numbers; hourly sums outlive the records."""
    kept = load(file=config_file(tmp_path, "ledger-retention = 30\n")).ledger.retention
    assert (kept.record_days, kept.rollup_days) == (30, 762)
    with pytest.raises(InvalidParameter, match="at least as long as records"):
        load("--ledger-retention", "900")


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon changes its directory later; a path means what it meant to the user."""
    monkeypatch.chdir(tmp_path)
    assert load("--root", "here/../there").root == tmp_path / "there"


def test_numbers_and_booleans_in_the_file(tmp_path: Path) -> None:
    """TOML's own types are taken where they fit."""
    text = "poll-interval = 2\nslow-interval = 30.5\nstop-containers = true\n"
    chosen = load(file=config_file(tmp_path, text))
    assert (chosen.poll_interval, chosen.slow_interval) == (2.0, 30.5)
    assert chosen.stop_containers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rot = '/x'", "unknown key 'rot'"),
        ("config = '/x'", "unknown key 'config'"),
        ("root = 3", "root must be a string"),
        ("stop-containers = 'yes'", "stop-containers must be true or false"),
        ("log-level = 'loud'", "log-level must be one of debug, info, warning, error"),
        ("poll-interval = 0", "poll-interval must be a number of seconds"),
        ("root = [", "not valid TOML"),
    ],
)
def test_wrong_file_is_a_clear_error(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file and the key."""
    file = config_file(tmp_path, text)
    with pytest.raises(InvalidParameter) as caught:
        load(file=file)
    assert said in caught.value.message
    assert str(file) in caught.value.message


def test_missing_file_matters_only_when_asked_for(tmp_path: Path) -> None:
    """The default file is optional, one that was named is not."""
    load()
    with pytest.raises(InvalidParameter, match="no such file"):
        load(file=tmp_path / "absent.toml")


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    """ARUNTIME_CONFIG is for daemons that the client starts; it counts as named."""
    file = config_file(tmp_path, 'bridge = "br3"')
    assert load(env={"ARUNTIME_CONFIG": str(file)}).bridge == "br3"
    with pytest.raises(InvalidParameter, match="no such file"):
        load(env={"ARUNTIME_CONFIG": str(tmp_path / "absent.toml")})


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """A directory in its place is an error with its path."""
    with pytest.raises(InvalidParameter, match="is a directory"):
        load(file=tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("--poll-interval", "soon"),
        ("--poll-interval", "nan"),
        ("--slow-interval", "-1"),
        ("--metrics-address", "9640"),
        ("--metrics-address", "host:70000"),
        ("--bridge", "a-name-that-is-too-long"),
        ("--bridge", "a/b"),
        ("--bridge", ""),
        ("--subnet", "172.29.0.1/16"),
        ("--subnet", "10.0.0.0/31"),
        ("--subnet", "fd00::/64"),
        ("--cgroup-parent", "relative"),
        ("--cgroup-parent", "/a/../b"),
        ("--cgroup-parent", "/"),
        ("--run-dir", "/" + "x" * 100),
        ("--socket", "/" + "x" * 110),
        ("--root", ""),
        ("--ledger-key", "/var/lib/aruntime/ledger.key"),
        ("--ledger-key", "\n"),
        ("--ledger-retention", "0"),
        ("--ledger-retention", "-3"),
        ("--ledger-rollup-retention", "year"),
    ],
)
def test_wrong_value_names_its_flag(words: tuple[str, str]) -> None:
    """Every checked flag says its own name when it refuses."""
    with pytest.raises(InvalidParameter) as caught:
        load(*words)
    assert words[0] in caught.value.message


@pytest.mark.parametrize("address", ["none", "127.0.0.1:0", ":9640", "[::1]:9640"])
def test_metrics_addresses(address: str) -> None:
    """Every form of the address that the exporters' listener understands is taken."""
    assert load("--metrics-address", address).metrics_address == address


def test_reload_changes_what_can_change(tmp_path: Path) -> None:
    """SIGHUP takes over intervals and log settings, and names what needs a restart."""
    current = load()
    file = config_file(tmp_path, 'poll-interval = 5\nlog-level = "debug"\nbridge = "br9"\n')
    fresh = load(file=file)
    after = settings.reloaded(current, fresh)
    assert (after.poll_interval, after.log_level) == (5.0, "debug")
    assert after.bridge == "aruntime0"
    assert settings.needs_restart(current, fresh) == ["config", "bridge"]


def test_foreign_cgroups(tmp_path: Path) -> None:
    """Patterns by flag, with commas, or as a list of the file; states as a table."""
    chosen = load("--meter-cgroups=/docker,/kubepods", "--meter-state=docker=/data")
    assert [pattern.text for pattern in chosen.meter_cgroups] == ["/docker", "/kubepods"]
    assert chosen.meter_states == {"docker": "/data"}
    text = 'meter-cgroups = ["/a/*", "=/b"]\n[meter-state]\npodman = "/p"\n'
    chosen = load(file=config_file(tmp_path, text))
    assert [pattern.text for pattern in chosen.meter_cgroups] == ["/a/*", "=/b"]
    assert chosen.meter_states == {"podman": "/p"}
    assert load().meter_cgroups == ()


@pytest.mark.parametrize(
    "text",
    [
        'meter-cgroups = ["docker"]',
        "meter-cgroups = [1]",
        'meter-cgroups = ["/a/../b"]',
        'meter-state = "docker"',
        '[meter-state]\nlxc = "/x"',
        '[meter-state]\ndocker = "x"',
    ],
)
def test_wrong_foreign_cgroups_are_refused(tmp_path: Path, text: str) -> None:
    """The message names the file and the key."""
    with pytest.raises(InvalidParameter, match=r"config\.toml: meter-(cgroups|state)"):
        load(file=config_file(tmp_path, text))


def test_readers() -> None:
    """Users and groups are looked up when the settings are read; who is unknown is refused."""
    chosen = load("--tenant-reader", "acme=root", "--tenant-reader", "a=b=@root")
    assert chosen.readers == (Reader("acme", uid=0), Reader("a=b", gid=0))
    for value, said in [
        ("acme", "must be TENANT=USER or TENANT=@GROUP"),
        ("=root", "must be TENANT=USER"),
        ("acme=@", "must be TENANT=USER"),
        ("acme=nobody-has-this-name", "there is no user nobody-has-this-name"),
        ("acme=@nobody-has-this-name", "there is no group nobody-has-this-name"),
    ]:
        with pytest.raises(InvalidParameter, match=f"--tenant-reader: {said}"):
            load("--tenant-reader", value)
