#!/bin/sh
# Sets up a virtual environment with this checkout and passes all tests. Needs root on Debian 12.
# Arguments go to pytest: `sh deploy/test.sh tests/unit` is the part that needs no containers.
set -eu
cd "$(dirname "$0")/.."

requirement="-e .[dev]"
packages="python3-venv busybox-static nftables libseccomp2 iproute2 procps
    prometheus prometheus-alertmanager debootstrap curl skopeo umoci buildah docker-registry
    apache2-utils zstd zsh bash-completion
    docker.io containerd runc podman conmon crun netavark catatonit iptables openssl
    bind9-dnsutils iperf3 postgresql"
. deploy/setup.sh

exec python -m pytest "$@"
