"""The flags of run, create and update, as docker has them.

Tables only. A flag of docker that this release cannot honour is listed with the reason, so that
giving it is an error and never silently nothing. What the values mean together is
:mod:`aruntime.daemon.commands.run_config`; the way from a client's request to a configuration
is :mod:`aruntime.daemon.commands.run_request`, whose names are repeated here for the commands.
"""

from __future__ import annotations

from aruntime.daemon.commands import run_values as read
from aruntime.daemon.commands.flags import Flag
from aruntime.daemon.commands.run_limits import LIMIT_FLAGS
from aruntime.daemon.commands.run_mounts import parse_mount, parse_tmpfs, parse_volume
from aruntime.daemon.commands.run_networks import parse_ip4, parse_ip6, parse_mac, parse_network
from aruntime.daemon.commands.run_rate import parse_network_rate
from aruntime.daemon.commands.run_request import read_env_files, requested_config
from aruntime.network.ports import parse_expose, parse_publish

__all__ = ["CREATE_FLAGS", "RUN_FLAGS", "UPDATE_FLAGS", "read_env_files", "requested_config"]

_LINKS = "give containers that must find each other a network: network create"

RESTART = Flag(
    "restart", "", "string", None, "string",
    "Restart policy to apply when a container exits (no, on-failure[:n], always, "
    "unless-stopped)", read=read.parse_restart,
)  # fmt: skip

NETWORK_RATE = Flag(
    "network-rate", "", "string", 0, "rate",
    "Bits per second that each link carries in each direction (e.g., 100mbit; 0: no limit)",
    read=parse_network_rate,
)  # fmt: skip

_PROCESS = (
    Flag("attach", "a", "list", help="Attach to STDIN, STDOUT or STDERR", read=read.parse_stream),
    Flag("entrypoint", help="Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", "list", help="Set environment variables", read=read.parse_env),
    Flag("env-file", "", "list", help="Read in a file of environment variables"),
    Flag("group-add", "", "list", help="Add additional groups to join", read=read.parse_group),
    Flag("init", "", "bool",
         help="Run an init inside the container that forwards signals and reaps processes"),
    Flag("interactive", "i", "bool", help="Keep STDIN open even if not attached"),
    Flag("oom-score-adj", "", "int", help="Tune host's OOM preferences (-1000 to 1000)"),
    Flag("stop-signal", help="Signal to stop the container"),
    Flag("stop-timeout", "", "int", help="Timeout (in seconds) to stop a container"),
    Flag("tty", "t", "bool", help="Allocate a pseudo-TTY"),
    Flag("ulimit", "", "list", None, "ulimit", "Ulimit options", read=read.parse_ulimit),
    Flag("user", "u", help="Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("workdir", "w", help="Working directory inside the container"),
)  # fmt: skip

_OBJECT = (
    Flag("annotation", "", "map", None, "map",
         "Add an annotation to the container (passed through to the OCI specification)"),
    Flag("cidfile", help="Write the container ID to the file"),
    Flag("cpu-request", "", "string", 0, "decimal", "CPUs that are billed even when idle",
         read=read.parse_nano_cpus),
    Flag("label", "l", "map", help="Set meta data on a container"),
    Flag("label-file", "", "list", help="Read in a line delimited file of labels"),
    Flag("log-driver", help="Logging driver for the container (json-file)"),
    Flag("log-opt", "", "map", None, "list",
         "Log driver options (max-size, max-file, mode)"),
    Flag("name", help="Assign a name to the container"),
    Flag("pull", "", "choice", "missing", "string",
         'Pull image before running ("always"|"missing"|"never")',
         choices=("always", "missing", "never")),
    Flag("quiet", "q", "bool", help="Suppress the pull output"),
    RESTART,
    Flag("rm", "", "bool", help="Automatically remove the container and its associated "
         "anonymous volumes when it exits"),
    Flag("tenant", help="Who the container's usage is charged to", read=read.parse_tenant),
)  # fmt: skip

_HEALTH = (
    Flag("health-cmd", help="Command to run to check health"),
    Flag("health-interval", "", "duration", help="Time between running the check (ms|s|m|h)"),
    Flag("health-retries", "", "int", help="Consecutive failures needed to report unhealthy"),
    Flag("health-start-interval", "", "duration",
         help="Time between running the check during the start period (ms|s|m|h)"),
    Flag("health-start-period", "", "duration",
         help="Start period for the container to initialize before starting health-retries "
         "countdown (ms|s|m|h)"),
    Flag("health-timeout", "", "duration",
         help="Maximum time to allow one check to run (ms|s|m|h)"),
    Flag("no-healthcheck", "", "bool", help="Disable any container-specified HEALTHCHECK"),
)  # fmt: skip

_ISOLATION = (
    Flag("cap-add", "", "list", help="Add Linux capabilities"),
    Flag("cap-drop", "", "list", help="Drop Linux capabilities"),
    Flag("cgroupns", help="Cgroup namespace to use (host|private)"),
    Flag("device", "", "list", help="Add a host device to the container", read=read.parse_device),
    Flag("device-cgroup-rule", "", "list", help="Add a rule to the cgroup allowed devices list",
         read=read.parse_device_rule),
    Flag("ipc", help="IPC mode to use (private|host|none)"),
    Flag("pid", help="PID namespace to use (host, container:NAME)"),
    Flag("privileged", "", "bool", help="Give extended privileges to this container"),
    Flag("read-only", "", "bool", help="Mount the container's root filesystem as read only"),
    Flag("security-opt", "", "list", help="Security Options", read=read.parse_security_option),
    Flag("sysctl", "", "list", None, "map", "Sysctl options", read=read.parse_sysctl),
    Flag("userns", help="User namespace to use (host|auto)"),
    Flag("uts", help="UTS namespace to use (host)"),
)  # fmt: skip

_STORAGE = (
    Flag("mount", "", "list", None, "mount", "Attach a filesystem mount to the container",
         read=parse_mount),
    Flag("shm-size", "", "bytes", help="Size of /dev/shm"),
    Flag("tmpfs", "", "list", help="Mount a tmpfs directory", read=parse_tmpfs),
    Flag("volume", "v", "list", help="Bind mount a volume", read=parse_volume),
)  # fmt: skip

_NETWORK = (
    Flag("add-host", "", "list", help="Add a custom host-to-IP mapping (host:ip)",
         read=read.parse_extra_host),
    Flag("dns", "", "list", help="Set custom DNS servers", read=read.parse_address),
    Flag("dns-option", "", "list", help="Set DNS options", aliases=("dns-opt",),
         read=read.parse_dns_option),
    Flag("dns-search", "", "list", help="Set custom DNS search domains", read=read.parse_domain),
    Flag("domainname", help="Container NIS domain name", read=read.parse_host_name),
    Flag("expose", "", "list", help="Expose a port or a range of ports", read=parse_expose),
    Flag("hostname", "h", help="Container host name", read=read.parse_host_name),
    Flag("ip", "", "string", None, "ip", "IPv4 address (e.g., 172.30.100.104)",
         read=parse_ip4),
    Flag("ip6", "", "string", None, "ip", "IPv6 address (e.g., 2001:db8::33)", read=parse_ip6),
    Flag("mac-address", help="Container MAC address (e.g., 92:d0:c6:0a:29:33)", read=parse_mac),
    Flag("network", "", "list", None, "network",
         "Connect a container to a network (bridge|host|none|container:NAME|NETWORK), may be "
         "repeated; also name=NETWORK,alias=NAME,ip=ADDRESS,ip6=ADDRESS,mac-address=MAC",
         aliases=("net",), read=parse_network),
    Flag("network-alias", "", "list", help="Add network-scoped alias for the container",
         aliases=("net-alias",), read=read.parse_domain),
    Flag("publish", "p", "list", help="Publish a container's port(s) to the host",
         read=parse_publish),
    Flag("publish-all", "P", "bool", help="Publish all exposed ports to random ports"),
)  # fmt: skip

_REFUSED = (
    Flag("cgroup-parent", refused="the daemon's --cgroup-parent holds for all containers"),
    Flag("disable-content-trust", "", "bool", refused="images are not signed here"),
    Flag("gpus", refused="give the device nodes with --device"),
    Flag("isolation", refused="it is for Windows containers"),
    Flag("link", "", "list", refused=_LINKS),
    Flag("link-local-ip", "", "list", refused="a link has one address of each IP version here"),
    Flag("platform", refused="containers run on this host's own platform"),
    Flag("runtime", refused="there is one runtime"),
    Flag("storage-opt", "", "list", refused="layers have no options"),
    Flag("use-api-socket", "", "bool", refused="the daemon's socket is not given to containers"),
    Flag("volume-driver", refused="only the local driver is there"),
    Flag("volumes-from", "", "list", refused="name the volumes with -v"),
)  # fmt: skip

CREATE_FLAGS = (
    *_PROCESS, *_OBJECT, *_HEALTH, *_ISOLATION, *_STORAGE, *_NETWORK, *LIMIT_FLAGS, NETWORK_RATE,
    *_REFUSED,
)  # fmt: skip
"""Flags of ``create``."""

RUN_FLAGS = (
    *CREATE_FLAGS,
    Flag("detach", "d", "bool", help="Run container in background and print container ID"),
    Flag("detach-keys", help="Override the key sequence for detaching a container"),
    Flag("sig-proxy", "", "bool", True, help="Proxy received signals to the process"),
)  # fmt: skip
"""Flags of ``run``."""

UPDATE_FLAGS = (*LIMIT_FLAGS, NETWORK_RATE, RESTART)
"""Flags of ``update``; docker's and, as here every limit can change, the rest of them."""
