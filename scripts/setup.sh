#!/bin/sh
# Installs the Debian packages that Retort needs and that are missing; does nothing if all are there.
# Called by `make setup` (and so by `make test` and `make demo`) and by .ci/run. This list is the only one; a package
# that only one target needs is named by it as an argument (`make fuzz`: clang).
set -eu

packages="
gcc g++ make libc6-dev
libdnnl-dev
libgloo-dev
libturbojpeg0-dev
libyajl-dev
libarchive-dev
libyaml-dev
libpng-dev
libssl-dev
libzstd-dev
zlib1g-dev
libcriterion-dev
$*
"

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "setup: this is no Debian system; install the equivalents of these packages by hand:" $packages >&2
    exit 1
fi

missing=""
for package in $packages; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "setup: missing packages, and neither root nor sudo to install them; run: apt-get install$missing" >&2
        exit 1
    fi
    as_root="sudo"
fi

echo "setup: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y \
           --no-install-recommends $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup: apt-get failed, see above; run it by hand: apt-get install$missing" >&2
    exit 1
fi
