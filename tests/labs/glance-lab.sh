#!/bin/sh
# A real Glance (version 33) on 127.0.0.1, as plain processes: sqlite, a store of files and
# perhaps one in Ceph, no Keystone, no message bus, no systemd.
#
#   glance-lab.sh install          make the virtual environment that it runs from, once
#   glance-lab.sh start DIR        start it on DIR, and print its URL when it answers
#   glance-lab.sh stop DIR         stop it; DIR keeps all data, and "start" goes on with them
#
# IMGBACKEND_LABS       where the virtual environment is           [.dev/labs at the root]
# PYTHON                the Python it is made with                  [python3]
# GLANCE_AUTH           none: whoever asks is administrator         [none]
#                       token: the token says who asks: "bad" and none at all are refused (401),
#                       "project:P" is a member of project P, any other an administrator
# GLANCE_LOCATIONS      yes: images show where their bytes are      [yes]
#                       direct: as direct_url alone; locations: as locations alone; no: nowhere
# GLANCE_CEPH_CONF      a ceph.conf: images are kept in the pool "images" of that cluster, by client.imgbackend,
#                       unless an upload names the store "files"
set -eu
LC_ALL=C.UTF-8
export LC_ALL
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
labs=${IMGBACKEND_LABS:-$here/../../.dev/labs}
venv=$labs/glance

say() { printf 'glance-lab: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

install() {
    mkdir -p "$labs"
    if command -v flock >/dev/null; then exec 8>"$labs/glance.lock"; flock 8; fi
    if [ ! -f "$venv/complete" ]; then
        rm -rf "$venv"
        log=$labs/glance-install.log
        say "making $venv (about a minute; what pip says is in $log)"
        {
            "${PYTHON:-python3}" -m venv "$venv" && "$venv/bin/pip" install -q 'glance==33.*' gunicorn
        } >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "installing Glance failed; see $log"; }
        make_schema
        touch "$venv/complete"
    fi
    exec 8>&-
}

make_schema() { # the migrations run once for a virtual environment; labs get a copy of the result
    made=$(mktemp -d)
    "$venv/bin/glance-manage" --config-file "$(configuration "$made")" --log-file "$made/log" db sync \
        >"$labs/glance-schema.log" 2>&1 || die "making Glance's database failed; see $labs/glance-schema.log"
    mv "$made/glance.db" "$venv/schema.db"
    rm -rf "$made"
}

configuration() { # DIR -> the name of a configuration file for it
    direct=False locations=False
    case ${GLANCE_LOCATIONS:-yes} in yes | direct) direct=True ;; esac
    case ${GLANCE_LOCATIONS:-yes} in yes | locations) locations=True ;; esac
    stores=files:file default=files
    [ -z "${GLANCE_CEPH_CONF:-}" ] || { stores=files:file,ceph:rbd default=ceph; }
    flavor=
    [ "${GLANCE_AUTH:-none}" = none ] || flavor=lab
    mkdir -p "$1/etc" "$1/store" "$1/staging" "$1/tasks"
    cp "$venv/etc/glance/glance-api-paste.ini" "$here/glance_lab_auth.py" "$1/etc"
    cat >>"$1/etc/glance-api-paste.ini" <<END

[composite:glance-api-lab]
paste.composite_factory = glance.api:root_app_factory
/: lab-api
/healthcheck: healthcheck

[composite:lab-api]
paste.composite_factory = glance.api:pipeline_factory
lab = http_proxy_to_wsgi versionnegotiation lab-auth context rootapp

[filter:lab-auth]
paste.filter_factory = glance_lab_auth:factory
END
    # Without authentication nobody has a role, and Glance's own rule for administrators
    # asks for one: nothing could be uploaded.
    if [ "$flavor" ]; then echo '{}'; else echo '"context_is_admin": "@"'; fi >"$1/etc/policy.yaml"
    cat >"$1/etc/glance-api.conf" <<END
[DEFAULT]
log_file = $1/glance.log
use_stderr = False
enabled_backends = $stores
# The brackets are needed: without them every answer is an error 500.
enabled_import_methods = [glance-direct]
show_image_direct_url = $direct
show_multiple_locations = $locations
transport_url = fake://
[glance_store]
default_backend = $default
[files]
filesystem_store_datadir = $1/store
[ceph]
rbd_store_ceph_conf = ${GLANCE_CEPH_CONF:-}
rbd_store_user = imgbackend
rbd_store_pool = images
[os_glance_staging_store]
filesystem_store_datadir = $1/staging
[os_glance_tasks_store]
filesystem_store_datadir = $1/tasks
[database]
connection = sqlite:///$1/glance.db
[paste_deploy]
config_file = $1/etc/glance-api-paste.ini
flavor = $flavor
[oslo_policy]
policy_file = $1/etc/policy.yaml
[oslo_concurrency]
lock_path = $1/etc
[image_format]
# Hostile images have to get in.
require_image_format_match = False
END
    echo "$1/etc/glance-api.conf"
}

runs() { # the process of DIR's pid file is Glance of this DIR, and no zombie
    pid=$(cat "$dir/pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    # By its folder: gunicorn overwrites its command line.
    [ "$(readlink "/proc/$pid/cwd")" = "$dir" ] || return 1
    case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in '' | Z*) return 1 ;; esac
}

answers() { # within some seconds: one process that asks again costs less than many
    "$venv/bin/python" -SE - "$1" 2>/dev/null <<'END'
import http.client
import sys
import time

end = time.monotonic() + 4
while time.monotonic() < end:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=2)
        connection.request("GET", "/healthcheck")
        if connection.getresponse().status == 200:
            sys.exit()
    except (OSError, http.client.HTTPException):
        pass  # not yet
    time.sleep(0.1)
sys.exit(1)
END
}

free_port() {
    "$venv/bin/python" -SE -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start() {
    [ -f "$venv/complete" ] || die "not installed: run tests/labs/glance-lab.sh install"
    if runs; then echo "http://127.0.0.1:$(cat "$dir/port")"; return; fi
    [ -z "${GLANCE_CEPH_CONF:-}" ] || "$here/ceph-lab.sh" link "$venv" || exit 1
    configuration "$dir" >/dev/null
    [ -s "$dir/glance.db" ] || cp "$venv/schema.db" "$dir/glance.db"
    [ -s "$dir/port" ] || free_port >"$dir/port"
    port=$(cat "$dir/port")
    (
        cd "$dir"
        exec env OS_GLANCE_CONFIG_DIR="$dir/etc" PYTHONPATH="$dir/etc" setsid "$venv/bin/gunicorn" \
            --bind "127.0.0.1:$port" --workers 1 --worker-class gthread --threads 8 --timeout 600 \
            --graceful-timeout 1 --access-logfile "$dir/access.log" --no-control-socket --log-level warning \
            glance.wsgi.api:application \
            >"$dir/server.log" 2>&1 </dev/null
    ) &
    echo $! >"$dir/pid"
    tries=0
    until answers "$port"; do
        tries=$((tries + 1))
        if [ $tries -ge 50 ] || ! runs; then
            tail -n 20 "$dir/server.log" >&2
            stop
            die "Glance did not come up"
        fi
    done
    echo "http://127.0.0.1:$port"
}

stop() { # the group of processes that setsid made
    if runs; then
        kill -TERM "$pid" 2>/dev/null || :
        tries=0
        while runs && [ $tries -lt 30 ]; do tries=$((tries + 1)); sleep 0.05; done
        kill -s KILL -- "-$pid" 2>/dev/null || :
    fi
    rm -f "$dir/pid"
}

case ${1:-} in
    install) install ;;
    start | stop)
        [ $# -eq 2 ] || die "usage: glance-lab.sh $1 DIR"
        mkdir -p "$2"
        dir=$(cd -- "$2" && pwd -P)
        "$1"
        ;;
    *)
        sed -n '2,/^set /{/^#/p;}' "$0"
        exit 2
        ;;
esac
