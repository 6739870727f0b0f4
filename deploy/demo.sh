#!/bin/sh
# The main job on one screen: a daemon, a container with limits, pause and resume, its metrics with
# the kernel's own numbers beside them, its bill. Leaves nothing behind but the virtual environment.
set -eu
cd "$(dirname "$0")/.."

requirement=.
packages="python3-venv busybox-static nftables libseccomp2"
. deploy/setup.sh

base=$(mktemp -d /tmp/aruntime-demo.XXXXXX)
export ARUNTIME_ROOT="$base/root" ARUNTIME_RUN_DIR="$base/run"
parent=/aruntime-demo-$$
bridge=ard$$
subnet=10.213.253.0/24
daemon=

finish() {
    if [ -n "$daemon" ]; then
        aruntime ps -aq | xargs -r aruntime rm -f >/dev/null 2>&1 || true
        kill "$daemon" 2>/dev/null && wait "$daemon" || true
        pkill -TERM -f "shim.*--run-dir $ARUNTIME_RUN_DIR" || true
        python - "$bridge" "$subnet" "$ARUNTIME_ROOT" <<'PY' || true
import pathlib, sys
from aruntime.network import Network, default_definition
bridge, subnet, root = sys.argv[1:]
leases = pathlib.Path(root, "networks", "bridge", "leases")
Network(default_definition(bridge, subnet), leases).remove()
PY
    fi
    rmdir /sys/fs/cgroup/*"$parent" /sys/fs/cgroup"$parent" 2>/dev/null || true
    rm -rf "$base"
}
trap finish EXIT

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

metric() {
    python - "$1" "$2" "$(cat "$ARUNTIME_RUN_DIR/metrics.addr")" <<'PY'
import sys, urllib.request
name, label, address = sys.argv[1:]
for line in urllib.request.urlopen(f"http://{address}/metrics").read().decode().splitlines():
    if line.startswith(name + "{") and label in line:
        print(line)
PY
}

aruntimed --metrics-address 127.0.0.1:0 --cgroup-parent "$parent" --bridge "$bridge" \
    --subnet "$subnet" --log-level warning &
daemon=$!
while ! aruntime version >/dev/null 2>&1; do
    kill -0 "$daemon"
    sleep 0.1
done

echo "An image: busybox in a directory, imported as a tar archive."
mkdir -p "$base/rootfs/bin"
cp "$(command -v busybox)" "$base/rootfs/bin/busybox"
busybox --install -s "$base/rootfs/bin"
find "$base/rootfs/bin" -type l -exec ln -sf busybox {} \;
tar -C "$base/rootfs" -c . | show aruntime import - busybox:latest

echo
echo "Prices: the rules of GKE Autopilot, a second of what was asked for."
aruntime price show gke-autopilot | show aruntime price load -

show aruntime run -d --name demo --tenant acme -m 64m --memory-swap 96m --cpus 0.5 \
    --pids-limit 32 busybox sh -c 'while :; do :; done'
id=$(aruntime inspect -f '{{.Id}}' demo)
show aruntime exec demo sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes; ls /; echo $$'
sleep 2
show aruntime stats --no-stream demo

show aruntime pause demo
show aruntime ps --format '{{.Names}}: {{.Status}}'
usage=$(find /sys/fs/cgroup -path "*cpuacct$parent/$id/cpuacct.usage" 2>/dev/null | head -n 1)
sleep 1.5
echo "The container is frozen. What the kernel counted, and what /metrics says:"
[ -n "$usage" ] && echo "cpuacct.usage (ns)  $(cat "$usage")"
metric aruntime_container_cpu_usage_seconds_total 'name="demo"'

show aruntime resume demo
sleep 1
show aruntime stop -t 1 demo
show aruntime ps -a --format '{{.Names}}: {{.Status}}'

echo
echo "The container is gone from the kernel, not from the account of its tenant:"
total=$(dirname "$(dirname "$usage")")/cpuacct.usage
[ -r "$total" ] && echo "cpuacct.usage of all our containers (ns)  $(cat "$total")"
metric aruntime_tenant_cpu_seconds_total 'tenant="acme"'
metric aruntime_tenant_memory_byte_seconds_total 'tenant="acme"'
metric aruntime_tenant_paused_seconds_total 'tenant="acme"'

show aruntime usage --by tenant
show aruntime bill
show aruntime ledger verify
