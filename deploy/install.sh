#!/bin/sh
# Installs aruntime on a Debian host, or upgrades it; run again it changes nothing that is right.
#
#     sh deploy/install.sh                     from this checkout
#     sh deploy/install.sh aruntime-1.0.whl    from a wheel
#     sh deploy/install.sh --uninstall         containers, images and the ledger stay
#
# PREFIX (/opt/aruntime) gets a virtual environment of its own, BINDIR (/usr/local/bin) the
# commands, /etc/aruntime a configuration that is never overwritten, systemd the units. With DESTDIR
# everything goes below that directory, and no package is installed and nothing started.
set -eu
umask 022

PREFIX=${PREFIX:-/opt/aruntime}
BINDIR=${BINDIR:-/usr/local/bin}
DESTDIR=${DESTDIR:-}
UNITS="aruntimed.service aruntime-shim.service aruntime.slice"
GROUP=aruntime
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

live() { [ -z "$DESTDIR" ]; }

under_systemd() { live && [ -d /run/systemd/system ]; }

uninstall() {
    if under_systemd; then
        # The shim stays until its containers have ended; nothing here kills one.
        systemctl disable --now aruntimed.service 2>/dev/null || true
        systemctl stop aruntime-shim.service 2>/dev/null || true
    fi
    for unit in $UNITS; do
        rm -f "$DESTDIR/etc/systemd/system/$unit"
    done
    rm -f "$DESTDIR$BINDIR/aruntime" "$DESTDIR$BINDIR/aruntimed"
    rm -rf "${DESTDIR:?}$PREFIX"
    if under_systemd; then
        systemctl daemon-reload
    fi
    echo "aruntime is uninstalled. Kept: $DESTDIR/etc/aruntime and $DESTDIR/var/lib/aruntime."
}

packages() {
    missing=
    for package in python3-venv libseccomp2 nftables; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
            missing="$missing $package"
    done
    # shellcheck disable=SC2086  # one word a package
    [ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -q $missing
}

interpreter() {
    for candidate in "${PYTHON:-}" /usr/bin/python3 python3; do
        if [ -n "$candidate" ] &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer was found; install python3, or name one with PYTHON="
}

units() {
    mkdir -p "$DESTDIR/etc/systemd/system"
    for unit in $UNITS; do
        sed "s|/opt/aruntime/|$PREFIX/|g" "$here/$unit" >"$DESTDIR/etc/systemd/system/$unit.new"
        mv "$DESTDIR/etc/systemd/system/$unit.new" "$DESTDIR/etc/systemd/system/$unit"
    done
}

configuration() {
    mkdir -p "$DESTDIR/etc/aruntime"
    file=$DESTDIR/etc/aruntime/config.toml
    [ -e "$file" ] || cat >"$file" <<END
# aruntimed's settings: its flags without the dashes; \`aruntimed --help\` has them all.
# Members of this group are as good as root on this host.
socket-group = "$GROUP"
metrics-address = "127.0.0.1:9640"
# Others reach the metrics only with TLS and a password: see web-config.yml.
# metrics-address = "0.0.0.0:9640"
# web-config-file = "/etc/aruntime/web-config.yml"
END
    [ -e "$DESTDIR/etc/aruntime/web-config.yml" ] ||
        install -m 0640 "$here/web-config.yml" "$DESTDIR/etc/aruntime/web-config.yml"
}

main() {
    source=$here/..
    case "${1:-}" in
    --uninstall)
        uninstall
        return
        ;;
    -*) fail "there is no option $1; see the first lines of this script" ;;
    "") ;;
    *) source=$1 ;;
    esac
    [ "$(id -u)" -eq 0 ] || fail "run this as root"
    if live; then
        packages
        getent group "$GROUP" >/dev/null || groupadd --system "$GROUP"
    fi
    python=$(interpreter)
    [ -x "$DESTDIR$PREFIX/bin/python" ] || "$python" -m venv "$DESTDIR$PREFIX"
    # shellcheck disable=SC2086  # several words
    "$DESTDIR$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
        ${PIP_ARGUMENTS:-} "$source"
    mkdir -p "$DESTDIR$BINDIR"
    "$DESTDIR$PREFIX/bin/python" -m aruntime.cli.link "$DESTDIR$BINDIR"
    units
    configuration
    if under_systemd; then
        systemctl daemon-reload
        systemctl enable --quiet aruntimed.service
        # Restarting the daemon harms no container; the shim takes over its new code when it is idle.
        systemctl restart aruntimed.service
        "$BINDIR/aruntime" version
    else
        echo "aruntime is installed. Start it with: $BINDIR/aruntimed"
    fi
}

main "$@"
