# Sourced by demo.sh and test.sh: a virtual environment with this checkout in it.
# It reads $requirement (what pip installs) and $packages (Debian packages that must be there).
# ARUNTIME_VENV is another place for the environment; with ARUNTIME_NO_SETUP nothing is installed.
# shellcheck shell=sh disable=SC2154

if [ "$(id -u)" -ne 0 ]; then
    echo "aruntime: containers need root; run this as root" >&2
    exit 1
fi

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
        missing="$missing $package"
done
if [ -n "$missing" ] && [ -z "${ARUNTIME_NO_SETUP:-}" ]; then
    echo "Installing Debian packages:$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        made_policy=yes
        # No service is started by being installed: tests start their own.
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -q >&2
    # shellcheck disable=SC2086  # one word a package
    apt-get install -y -q --no-install-recommends $missing >&2
    if [ -n "$made_policy" ]; then
        rm -f "$policy"
        trap - EXIT
    fi
fi

venv=${ARUNTIME_VENV:-.venv}
if [ ! -x "$venv/bin/python" ]; then
    python=
    for candidate in python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "aruntime: no Python 3.11 or newer was found; install python3" >&2
        exit 1
    fi
    "$python" -m venv "$venv"
fi
# shellcheck disable=SC2086  # several words
[ -n "${ARUNTIME_NO_SETUP:-}" ] ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $requirement
PATH="$(cd "$venv" && pwd)/bin:$PATH"
export PATH
