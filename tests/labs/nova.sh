#!/bin/sh
# The real Nova (version 34) in a virtual environment of its own, and a sample of its
# configuration with those of the libraries that share its file.
#
#   nova.sh install          make it, once; prints where it is
#
# IMGBACKEND_LABS       where labs are; there it is "nova"          [.dev/nova-venv at the root]
# PYTHON                the Python it is made with                  [python3]
set -eu
LC_ALL=C.UTF-8
export LC_ALL
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
venv=${IMGBACKEND_LABS:+$IMGBACKEND_LABS/nova}
venv=${venv:-$(dirname -- "$(dirname -- "$here")")/.dev/nova-venv}    # ./dev bench has it there too
wanted='nova==34.*'

say() { printf 'nova: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

[ "${1:-}" = install ] || die "usage: nova.sh install"
mkdir -p "$(dirname -- "$venv")"
if command -v flock >/dev/null; then exec 8>"$venv.lock"; flock 8; fi
if [ "$(cat "$venv/complete" 2>/dev/null)" != "$wanted" ]; then
    say "making $venv (some minutes; what pip says is in $venv.log)"
    rm -rf "$venv"
    { "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/pip" install -q "$wanted"; } >"$venv.log" 2>&1 ||
        { tail -n 5 "$venv.log" >&2; die "installing Nova failed; see $venv.log"; }
    printf %s "$wanted" >"$venv/complete"
fi
if [ ! -f "$venv/nova.conf.sample" ]; then
    set --
    for name in nova.conf oslo.log oslo.messaging oslo.policy oslo.privsep oslo.service.service oslo.concurrency \
        oslo.reports osprofiler keystonemiddleware.auth_token os_vif; do
        set -- "$@" --namespace "$name"
    done
    "$venv/bin/oslo-config-generator" "$@" --output-file "$venv/nova.conf.tmp" 2>>"$venv.log" ||
        die "oslo-config-generator failed; see $venv.log"
    mv "$venv/nova.conf.tmp" "$venv/nova.conf.sample"
fi
printf '%s\n' "$venv"
