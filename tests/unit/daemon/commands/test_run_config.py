"""What a command line and an image make together: the configuration of a container."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from aruntime.container.config import (
    Connection,
    ContainerConfig,
    Device,
    Health,
    LogOptions,
    Mount,
    RestartPolicy,
    Ulimit,
)
from aruntime.daemon.commands.flags import Command, Parsed, parse
from aruntime.daemon.commands.run_config import Request, container_config, named_files
from aruntime.daemon.commands.run_flags import CREATE_FLAGS, RUN_FLAGS, UPDATE_FLAGS
from aruntime.daemon.commands.run_limits import merge_resources, requested_patch
from aruntime.errors import InvalidParameter, NetworkNotFound, UsageError
from aruntime.images.image import Healthcheck, Image, ImageConfig
from aruntime.network.definition import Definition
from aruntime.network.ports import PortRequest


async def _run(_session: Any, _parsed: Parsed, _daemon: Any) -> int:
    return 0


RUN = Command("run", "", _run, flags=RUN_FLAGS, minimum=1, interspersed=False)
CREATE = Command("create", "", _run, flags=CREATE_FLAGS, minimum=1, interspersed=False)
UPDATE = Command("update", "", _run, flags=UPDATE_FLAGS, minimum=1)
ID = "ab" * 32
PROFILE = json.dumps({"defaultAction": "SCMP_ACT_ALLOW"})

IMAGE = ImageConfig(
    entrypoint=("/entry",),
    cmd=("serve", "--all"),
    env=("PATH=/image/bin", "LANG=C"),
    working_dir="/srv",
    user="www",
    labels={"from": "image", "aruntime.tenant": "sneaky"},
    volumes=("/data", "/../../etc/x"),
    stop_signal="SIGQUIT",
    exposed_ports=("443/tcp",),
    healthcheck=Healthcheck(test=("CMD", "check"), interval_ns=5_000_000_000, retries=4),
)
FILES = {
    "env": b"\xef\xbb\xbf# comment\nA=file\r\n\n  B = spaced value\nHOME\nNOT_SET\n".replace(
        b"B = ", b"B="
    ),
    "labels": b"one=1\nlone\n",
    "profile": PROFILE.encode(),
    "broken": b"{",
    "bad-env": b"A B=1\n",
    "bad-utf8": b"A=1\nB=\xff\n",
}


def image(config: ImageConfig = IMAGE) -> Image:
    """An image of two layers."""
    return Image(
        id="sha256:aa", digest="sha256:bb", names=("docker.io/library/app:latest",),
        config=config, layers=("/l/1", "/l/2"), diff_ids=("sha256:1", "sha256:2"), size=1,
        created_ns=0,
    )  # fmt: skip


def find_network(name: str) -> Definition:
    """The networks of this daemon."""
    subnets = {"bridge": ("172.29.0.0/16", ""), "web": ("10.9.0.0/24", "fd00:9::/64")}
    if name not in subnets:
        raise NetworkNotFound(f"network {name} not found")
    subnet, subnet6 = subnets[name]
    return Definition(id="1", name=name, bridge="b", subnet=subnet, gateway="", subnet6=subnet6)


def request(**more: Any) -> Request:
    """The surroundings of a request, without looking at this host."""
    numbers = itertools.count(1)
    given: dict[str, Any] = {
        "container_id": ID,
        "name": "box",
        "created_ns": 7,
        "cwd": "/home/me/dir",
        "env": {"HOME": "/home/me", "USER": "me"},
        "files": FILES,
        "host_name": "thishost",
        "gateway": "172.29.0.1",
        "find_network": find_network,
        "cpu_count": 2,
        "device_numbers": {"/dev/sda": (8, 0), "/dev/sdb": (8, 16)}.__getitem__,
        "exists": lambda path: path != "/missing",
        "new_volume": lambda: f"anonymous{next(numbers)}",
    }
    return Request(**{**given, **more})


def make(line: str, *more: str, command: Command = RUN, **about: Any) -> ContainerConfig:
    """Configuration of a line whose words have no blanks, and of more words."""
    parsed = parse(command, [*line.split(), *more])
    return container_config(parsed, image(), request(**about))[0]


def failure(line: str, *more: str) -> str:
    """The refusal of a line."""
    with pytest.raises((InvalidParameter, NetworkNotFound)) as caught:
        make(line, *more)
    return caught.value.message


def test_an_image_alone_decides_nearly_everything() -> None:
    """Entrypoint, command, environment, user, directory, volumes, stop signal, health."""
    config = make("app")
    assert config == ContainerConfig(
        id=ID, name="box", created_ns=7, image="app", image_id="sha256:aa",
        image_digest="sha256:bb", layers=["/l/1", "/l/2"], args=["/entry", "serve", "--all"],
        entrypoint=["/entry"], cmd=["serve", "--all"], env=["PATH=/image/bin", "LANG=C"],
        working_dir="/srv", user="www", hostname=ID[:12], labels={"from": "image"},
        stop_signal="SIGQUIT", exposed_ports=["443/tcp"],
        mounts=[
            Mount(type="volume", source="anonymous1", target="/data"),
            Mount(type="volume", source="anonymous2", target="/etc/x"),
        ],
        health=Health(test=("CMD", "check"), interval_ns=5_000_000_000, retries=4),
    )  # fmt: skip


def test_the_record_survives_the_disk() -> None:
    """config.json reads back as it was written."""
    config = make("-v /a:/b --device /dev/null --ulimit nofile=1 --restart on-failure:2 -m 64m app")
    text = msgspec.json.encode(config)
    assert msgspec.json.decode(text, type=ContainerConfig) == config


@pytest.mark.parametrize(
    ("line", "entrypoint", "cmd"),
    [
        ("app", ["/entry"], ["serve", "--all"]),
        ("app ls -l", ["/entry"], ["ls", "-l"]),
        ("--entrypoint sh app", ["sh"], []),
        ("--entrypoint sh app -c x", ["sh"], ["-c", "x"]),
        ("--entrypoint= app id", [], ["id"]),
    ],
)
def test_entrypoint_and_command(line: str, entrypoint: list[str], cmd: list[str]) -> None:
    """A new entrypoint drops the image's command too."""
    config = make(line)
    assert (config.entrypoint, config.cmd) == (entrypoint, cmd)
    assert config.args == entrypoint + cmd


def test_something_must_be_run() -> None:
    """An image without a command needs one on the line."""
    assert failure("--entrypoint= app") == (
        "no command specified; the image has none, so name one after it"
    )


def test_environment_comes_from_image_files_line_and_caller() -> None:
    """Later ones win; a name alone takes the caller's value or removes the image's."""
    config = make("--env-file env -e A=line -e USER -e LANG -e NEW= app")
    assert config.env == [
        "PATH=/image/bin", "A=line", "B=spaced value", "HOME=/home/me", "USER=me", "NEW=",
    ]  # fmt: skip


def test_files_of_variables_are_checked() -> None:
    """The line is named."""
    assert failure("--env-file bad-env app") == (
        "invalid env file (bad-env): variable 'A B' contains whitespaces"
    )
    assert failure("--env-file bad-utf8 app") == (
        "invalid env file (bad-utf8): invalid utf8 bytes at line 2"
    )


def test_the_files_a_line_names_are_known_beforehand() -> None:
    """They are read at the caller's rights before the configuration is made."""
    line = "--env-file a --label-file b --security-opt seccomp=c --security-opt seccomp=unconfined"
    assert named_files(parse(RUN, [*line.split(), "app"])) == ["a", "b", "c"]


def test_labels_and_tenant() -> None:
    """The caller says who pays, by flag or by label; the image cannot."""
    config = make("--label-file labels -l two=2 --tenant team app")
    assert config.labels == {
        "from": "image", "one": "1", "lone": "", "two": "2", "aruntime.tenant": "team",
    }  # fmt: skip
    assert config.tenant == "team"
    assert make("-l aruntime.tenant=other app").tenant == "other"
    assert make("app").tenant == "default"
    assert "a tenant has 1 to 128" in failure("-l aruntime.tenant= app")


def test_stdin_and_terminal() -> None:
    """-i keeps stdin open, once unless detached."""
    config = make("-it app")
    assert config.tty
    assert config.open_stdin
    assert config.stdin_once
    assert not make("-id app").stdin_once
    assert not make("-i -a stdout app").stdin_once
    assert make("-i app", command=CREATE).stdin_once
    assert failure("-d -a stdout app") == (
        "conflicting options: cannot specify both --attach and --detach"
    )


def test_how_it_stops_and_restarts() -> None:
    """Signal, timeout, policy."""
    config = make("--stop-signal TERM --stop-timeout 3 --restart unless-stopped app")
    assert (config.stop_signal, config.stop_timeout) == ("TERM", 3)
    assert config.restart == RestartPolicy(name="unless-stopped")
    assert make("--rm app").auto_remove
    assert failure("--rm --restart always app") == (
        "conflicting options: cannot specify both --restart and --rm"
    )
    assert failure("--stop-signal FOO app").startswith("invalid signal: FOO")


def test_directory_user_and_groups() -> None:
    """Cleaned, checked, kept as typed."""
    config = make("-w /a//b/../c -u 1000:1000 --group-add audio --group-add 44 app")
    assert config.working_dir == "/a/c"
    assert config.user == "1000:1000"
    assert config.group_add == ["audio", "44"]
    assert failure("-w x app") == (
        "the working directory 'x' is invalid, it needs to be an absolute path"
    )
    assert failure("-u a:b:c app").startswith("invalid user 'a:b:c'")


def test_mounts_have_their_sources_found() -> None:
    """Relative to the caller; --mount refuses what is missing, -v makes it; VOLUME yields."""
    config = make(
        "-v ./here:/a -v data:/data -v /anon --mount type=bind,src=/x,dst=/b --tmpfs /t app"
    )
    assert [(mount.type, mount.source, mount.target) for mount in config.mounts] == [
        ("bind", "/home/me/dir/here", "/a"),
        ("volume", "data", "/data"),
        ("volume", "anonymous1", "/anon"),
        ("bind", "/x", "/b"),
        ("tmpfs", "", "/t"),
        ("volume", "anonymous2", "/etc/x"),
    ]
    assert "bind source path does not exist: /missing" in failure(
        "--mount type=bind,src=/missing,dst=/b app"
    )
    assert make("-v /missing:/b app").mounts[0].create_source
    assert failure("-v /a:/x --tmpfs /x/ app") == "duplicate mount point: /x; name it once"


@pytest.mark.parametrize("flag", ["-v /a:/proc/self", "--tmpfs /proc/sys", "-v x1:/proc"])
def test_nothing_is_mounted_over_proc(flag: str) -> None:
    """At create, not when it is started (CVE-2019-16884)."""
    assert "cannot be mounted because it is inside /proc" in failure(f"{flag} app")


def test_isolation() -> None:
    """Capabilities, devices, security options, sysctls, ulimits."""
    line = (
        "--cap-add net_admin --cap-drop CAP_CHOWN --cap-drop all --device /dev/a:/dev/b:r"
        " --security-opt no-new-privileges --security-opt seccomp=profile"
        " --security-opt systempaths=unconfined --security-opt apparmor=unconfined"
        " --sysctl net.core.somaxconn=5 --ulimit nofile=5 --ulimit nofile=6:7 --init"
        " --read-only --shm-size 1m --oom-score-adj 100 --device-cgroup-rule"
    )
    config = make(line, "c 1:3 r", "app")
    assert config.cap_add == ["CAP_NET_ADMIN"]
    assert config.cap_drop == ["CAP_CHOWN", "ALL"]
    assert config.devices == [Device(source="/dev/a", target="/dev/b", permissions="r")]
    assert config.device_cgroup_rules == ["c 1:3 r"]
    assert config.no_new_privileges
    assert config.systempaths_unconfined
    assert config.seccomp == PROFILE
    assert config.sysctls == {"net.core.somaxconn": "5"}
    assert config.ulimits == [Ulimit(name="nofile", soft=6, hard=7)]
    assert config.init
    assert config.read_only
    assert config.shm_size == 1 << 20
    assert config.oom_score_adj == 100
    assert make("--security-opt seccomp=unconfined app").seccomp == "unconfined"
    assert make("--security-opt seccomp=builtin app").seccomp == ""


def test_names_of_the_network() -> None:
    """DNS, hosts, host name and domain."""
    config = make(
        "--dns 1.1.1.1 --dns-search a.b --dns-opt ndots:2 --add-host a:1.2.3.4"
        " --add-host gw:host-gateway -h name --domainname example.org --net none app"
    )
    assert config.dns == ["1.1.1.1"]
    assert config.dns_search == ["a.b"]
    assert config.dns_options == ["ndots:2"]
    assert config.extra_hosts == ["a:1.2.3.4", "gw:172.29.0.1"]
    assert (config.hostname, config.domainname) == ("name", "example.org")
    assert config.network_mode == "none"
    assert make("--network host app").hostname == "thishost"
    assert make("--network host -h own app").hostname == "own"


def test_networks() -> None:
    """The first one is the mode; flags without a network's name mean it."""
    assert make("app").connections == []
    assert make("--network bridge app").network_mode == "bridge"
    assert make("--net default app").networks == [Connection(network="bridge")]
    config = make(
        "--network web --ip 10.9.0.9 --ip6 fd00:9::0:9 --network-alias a --network-alias b"
        " --mac-address 02-00-00-00-00-0A --network bridge app"
    )
    assert config.network_mode == "web"
    assert config.networks == [
        Connection(
            network="web", ip="10.9.0.9", ip6="fd00:9::9", mac="02:00:00:00:00:0a",
            aliases=("a", "b"),
        ),
        Connection(network="bridge"),
    ]  # fmt: skip
    config = make("--network bridge --network name=web,alias=x,alias=y,ip=10.9.0.7 app")
    assert config.networks[1] == Connection(network="web", ip="10.9.0.7", aliases=("x", "y"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("name=web,ip", "invalid field ip: must be a key=value pair"),
        ("alias=a", "network name/id is not specified"),
        ("name=web,colour=red", "invalid field key colour"),
        ("name=web,ip=10.9.0", "Expected 4 octets"),
        ("name=web,mac-address=01:00:00:00:00:00", "it is not that of one link"),
        ("name=web,driver-opt=a=b", "driver-opt is not supported"),
    ],
)
def test_wrong_fields_of_a_network(value: str, message: str) -> None:
    """In docker's words."""
    with pytest.raises(UsageError, match=message):
        parse(RUN, ["--network", value, "app"])


def test_ports() -> None:
    """What is published, in the user's order, and what is only exposed."""
    config = make("-p 8080:80 -p 127.0.0.1:53:53/udp -p 81 --expose 90-91/udp app")
    assert config.ports == [
        PortRequest(container_port=80, host_port=8080),
        PortRequest(container_port=53, host_port=53, host_ip="127.0.0.1", protocol="udp"),
        PortRequest(container_port=81),
    ]
    assert config.exposed_ports == ["443/tcp", "90/udp", "91/udp"]
    assert not config.publish_all
    config = make("-P -p 8443:443 --expose 90 app")
    assert config.ports == [
        PortRequest(container_port=443, host_port=8443),
        PortRequest(container_port=90),
    ]
    parsed = parse(RUN, ["--network", "host", "-p", "80:80", "app"])
    config, warnings = container_config(parsed, image(), request())
    assert config.ports == []
    assert warnings == ["Published ports are discarded when using host network mode"]
    assert "port publishing and the container type" in failure("--network container:a -p 80 app")
    assert "port exposing and the container type" in failure("--network container:a --expose 1 app")


def test_modes() -> None:
    """Namespaces of the host, of other containers, of one's own."""
    config = make("--pid host --ipc host --uts host --cgroupns host --privileged app")
    assert (config.pid_mode, config.ipc_mode, config.uts_mode) == ("host", "host", "host")
    assert (config.cgroupns_mode, config.privileged) == ("host", True)
    assert make("--pid container:web app").pid_mode == "container:web"
    assert make("--network container:web app").network_mode == "container:web"
    assert make("--userns auto app").userns_mode == "auto"
    own = make("--pid private --ipc private --cgroupns private --userns host app")
    assert (own.pid_mode, own.ipc_mode, own.cgroupns_mode) == ("", "", "private")


def test_health_checks() -> None:
    """Flags over the image's; zero means docker's default."""
    config = make("--health-timeout 2s --health-retries 1 --health-cmd", "curl x", "app")
    assert config.health == Health(
        test=("CMD-SHELL", "curl x"), interval_ns=5_000_000_000, timeout_ns=2_000_000_000,
        retries=1,
    )  # fmt: skip
    assert make("--no-healthcheck app").health is None


def test_logs() -> None:
    """docker's log sizes are decimal."""
    config = make("--log-opt max-size=10m --log-opt max-file=3 --log-driver json-file app")
    assert config.log == LogOptions(max_size=10_000_000, max_file=3)
    assert make("--log-opt mode=non-blocking app").log.mode == "non-blocking"


def test_limits() -> None:
    """Everything that bounds resources, as linux.resources."""
    config = make(
        "-m 200M --memory-swap 300M --memory-reservation 100m --memory-swappiness 0 -c 512"
        " --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 9 --blkio-weight 300"
        " --blkio-weight-device /dev/sda:200 --device-write-bps /dev/sda:30MB"
        " --device-read-iops /dev/sdb:7 --device-read-iops /dev/sdb:8 --oom-kill-disable"
        " --cpu-rt-period 1000000 --cpu-rt-runtime 9000 --cpus 1.5 --cpu-request .5 app"
    )
    assert config.resources == {
        "memory": {
            "limit": 209715200, "swap": 314572800, "reservation": 104857600, "swappiness": 0,
            "disableOOMKiller": True,
        },
        "cpu": {
            "shares": 512, "cpus": "0-1", "mems": "0", "quota": 150_000, "period": 100_000,
            "realtimePeriod": 1_000_000, "realtimeRuntime": 9_000,
        },
        "pids": {"limit": 9},
        "blockIO": {
            "weight": 300,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 200}],
            "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 31457280}],
            "throttleReadIOPSDevice": [{"major": 8, "minor": 16, "rate": 8}],
        },
    }  # fmt: skip
    assert config.cpu_request_milli == 500


@pytest.mark.parametrize(
    ("line", "memory"),
    [
        ("-m 64m", {"limit": 64 << 20, "swap": 128 << 20}),
        ("-m 64m --memory-swap 64m", {"limit": 64 << 20, "swap": 64 << 20}),
        ("-m 64m --memory-swap -1", {"limit": 64 << 20, "swap": -1}),
        ("-m 0", None),
        ("", None),
    ],
)
def test_swap_follows_memory(line: str, memory: dict[str, int] | None) -> None:
    """Memory alone means twice as much memory and swap."""
    assert make(f"{line} app").resources.get("memory") == memory


def test_unlimited_pids_are_said_so() -> None:
    """0 and -1; not given is not limited by us."""
    assert make("--pids-limit 0 app").resources["pids"] == {"limit": -1}
    assert make("--pids-limit -1 app").resources["pids"] == {"limit": -1}
    assert "pids" not in make("app").resources


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m 5m", "minimum memory limit allowed is 6MB"),
        ("-m 64m --memory-swap 10m", "minimum memoryswap limit should be larger than memory limit"),
        ("--memory-swap 64m", "you should always set the memory limit when using memory-swap"),
        ("-m 64m --memory-reservation 65m", "minimum memory limit can not be less than memory"),
        ("--memory-swappiness 200", "invalid value: 200. valid memory swappiness range is 0-100"),
        ("--cpus 1 --cpu-quota 5000", "conflicting options: Nano CPUs and CPU Quota cannot both"),
        ("--cpus 1 --cpu-period 5000", "conflicting options: Nano CPUs and CPU Period cannot both"),
        ("--cpus 3", "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        ("--cpus -1", "range of CPUs is from 0.01 to 2.00"),
        ("-c 1", "the minimum allowed cpu-shares is 2"),
        ("--cpu-period 5", "CPU cfs period can not be less than 1ms"),
        ("--cpu-quota 5", "CPU cfs quota can not be less than 1ms"),
        ("--cpuset-cpus x", "invalid value 'x' for cpuset cpus"),
        ("--blkio-weight 5", "range of blkio weight is from 10 to 1000"),
        ("--oom-score-adj 2000", "invalid value 2000, range for oom score adj is [-1000, 1000]"),
        ("--cap-add foo", 'invalid CapAdd: unknown capability: "CAP_FOO"; see capabilities(7)'),
        ("--cap-drop foo", 'invalid CapDrop: unknown capability: "CAP_FOO"'),
        ("--pid foo", "--pid: invalid PID mode 'foo'"),
        ("--uts foo", "--uts: invalid UTS mode 'foo'"),
        ("--userns foo", "--userns: invalid USER mode 'foo'"),
        ("--cgroupns foo", "--cgroupns: invalid CGROUP mode 'foo'"),
        ("--ipc foo", "--ipc: invalid IPC mode 'foo'"),
        ("--ipc shareable", "--ipc shareable is not supported"),
        ("--network mine", "network mine not found"),
        ("--network web --network web", 'network "web" is specified multiple times'),
        ("--network web --network host", "--network host stands alone"),
        ("--network web --network container:a", "--network container:a stands alone"),
        ("--network container:", "invalid container format container:<name|id>"),
        ("--ip 172.29.0.9", "user-specified IP address is supported on user-defined networks only"),
        ("--network-alias a", "network-scoped aliases are only supported for user-defined"),
        ("--network host --mac-address 02:00:00:00:00:01", "mac-address and the network mode"),
        ("--network web --ip 10.8.0.1", "no configured subnet contains IP address 10.8.0.1"),
        ("--network web --ip6 fd00:8::1", "no configured subnet contains IP address fd00:8::1"),
        ("--network bridge --ip6 fd00::1", "IP address is supported on user-defined networks"),
        ("--network name=web,ip=10.9.0.5 --ip 10.9.0.6", "cannot specify both --ip and per-netw"),
        ("--network name=web,alias=a --network-alias b", "both --network-alias and per-network"),
        ("--network=", "no name set for network"),
        ("--uts host -h x", "conflicting options: hostname and the UTS mode"),
        ("--network container:a -h x", "conflicting options: hostname and the network mode"),
        ("--network container:a --dns 1.1.1.1", "conflicting options: dns and the network mode"),
        ("--userns auto --privileged", "privileged mode is incompatible with user namespaces"),
        ("--userns auto --network host", "cannot share the host's or another container's network"),
        ("--network host --sysctl net.x=1", "sysctl 'net.x=1' is not allowed in host network"),
        ("--ipc host --sysctl kernel.msgmax=1", "is not allowed in host ipc namespace"),
        ("--no-healthcheck --health-retries 1", "--no-healthcheck conflicts with --health-*"),
        ("--health-interval=-1s", "--health-interval cannot be negative"),
        ("--health-interval=1us", "--health-interval cannot be less than 1ms"),
        ("--log-driver syslog", "log driver 'syslog' is not supported"),
        ("--log-driver none --log-opt a=b", "invalid logging opts for driver none"),
        ("--log-opt tag=x", "unknown log opt 'tag' for json-file log driver"),
        ("--log-opt max-size=x", "log opt max-size: invalid size: 'x'"),
        ("--log-opt max-file=0", "max-file must be a number from 1 to 1000"),
        ("--log-opt max-file=2", "max-file needs max-size"),
        ("--security-opt apparmor=x", "--security-opt apparmor=x is not supported"),
        ("--security-opt seccomp=broken", "opening seccomp profile (broken) failed: decoding"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, message: str) -> None:
    """In docker's words, lower case, with advice."""
    assert message in failure(f"{line} app")


@pytest.mark.parametrize(
    "line",
    [
        "--link a", "--gpus all", "--runtime x",
        "--volumes-from x", "--kernel-memory 5m", "--platform linux/amd64",
        "--storage-opt size=1", "--cgroup-parent /x",
    ],
)  # fmt: skip
def test_flags_that_are_not_honoured_are_never_ignored(line: str) -> None:
    """Each says why."""
    with pytest.raises(UsageError, match="is not supported: "):
        parse(RUN, [*line.split(), "app"])


def test_bytes_that_are_no_text_are_refused() -> None:
    """Records, API and metrics are UTF-8."""
    assert failure("-e A=\udcff app") == "an argument is not valid UTF-8: A=\\udcff"


def test_a_warning_for_a_container_that_can_take_all_memory() -> None:
    """docker's, word for word."""
    parsed = parse(RUN, ["--oom-kill-disable", "app"])
    _, warnings = container_config(parsed, image(), request())
    assert warnings == [
        "OOM killer is disabled for the container, but no memory limit is set, this can result "
        "in the system running out of resources"
    ]


def patch(line: str, **resources: Any) -> dict[str, Any]:
    """What an update changes on a container with these limits."""
    parsed = parse(UPDATE, [*line.split(), "box"])
    numbers = {"/dev/sda": (8, 0), "/dev/sdb": (8, 16)}.__getitem__
    return requested_patch(parsed, resources, cpu_count=2, device_numbers=numbers)


def test_update_changes_only_what_is_given() -> None:
    """A patch of linux.resources."""
    assert patch("-c 512 --pids-limit 0") == {"cpu": {"shares": 512}, "pids": {"limit": -1}}
    assert patch("--restart always") == {}
    assert patch("-m 64m") == {"memory": {"limit": 64 << 20}}
    assert patch("--cpus .5") == {"cpu": {"quota": 50_000, "period": 100_000}}


def test_update_is_checked_against_what_is_there() -> None:
    """The result counts, not the patch alone."""
    present = {"memory": {"limit": 64 << 20, "swap": 128 << 20}}
    assert patch("--memory-swap 256m", **present) == {"memory": {"swap": 256 << 20}}
    for line, message in (
        ("-m 200m", "memory limit should be smaller than already set memoryswap limit"),
        ("--memory-swap 32m", "minimum memoryswap limit should be larger than memory limit"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            patch(line, **present)
    with pytest.raises(InvalidParameter, match="you must provide one or more flags"):
        patch("")


def test_a_patch_is_laid_over_device_by_device() -> None:
    """What is not named stays, also in lists of devices."""
    old = patch("-m 64m -c 5 --device-read-bps /dev/sda:1m --device-read-bps /dev/sdb:2m")
    new = patch("-c 9 --device-read-bps /dev/sda:7m --pids-limit 3")
    assert merge_resources(old, new) == {
        "memory": {"limit": 64 << 20},
        "cpu": {"shares": 9},
        "pids": {"limit": 3},
        "blockIO": {
            "throttleReadBpsDevice": [
                {"major": 8, "minor": 16, "rate": 2 << 20},
                {"major": 8, "minor": 0, "rate": 7 << 20},
            ]
        },
    }
