#!/bin/sh
# A real Ceph on 127.0.0.1, as plain processes: a monitor and an OSD, as whoever calls, without systemd.
#
#   ceph-lab.sh start DIR      a new, empty cluster on DIR; returns when its pools can be used (1 to 2 s)
#   ceph-lab.sh stop DIR       end its processes; another start makes another cluster
#   ceph-lab.sh status DIR     what runs; the exit status is 0 if the cluster answers, else 3
#   ceph-lab.sh purge DIR      stop, and remove DIR
#   ceph-lab.sh link VENV      let a virtual environment import rbd and rados, which Debian alone has
#
# DIR gets ceph.conf, the keyrings of client.admin and of client.imgbackend, and log/.  To look into it:
# CEPH_CONF=DIR/ceph.conf rbd ls images
#
# CEPH_LAB_STORE    memstore: all data are in the OSD's memory       [memstore]
#                   bluestore: they are in a file in DIR (start: 5 s)
# CEPH_LAB_SIZE     bytes that the OSD has room for                  [2147483648]
# CEPH_LAB_MGR      yes: a manager too, which statistics need (start: 6 to 10 s)   [no]
# CEPH_LAB_MDS      yes: a file system of its own too, "shared", with a manager, or no room is reported   [no]
# CEPH_LAB_POOLS    the pools that it begins with                    [images vms]
# CEPH_LAB_OWNER    a process; when it has ended, the cluster is stopped
# CEPH_LAB_TTL      seconds after which its processes end in any case  [7200]
# CEPH_LAB_PYTHON   a Python that can import rados and rbd           [/usr/bin/python3]
set -eu
LC_ALL=C.UTF-8
export LC_ALL
unset CEPH_CONF CEPH_ARGS CEPH_KEYRING
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
store=${CEPH_LAB_STORE:-memstore}
size=${CEPH_LAB_SIZE:-2147483648}
pools=${CEPH_LAB_POOLS:-images vms}
python=${CEPH_LAB_PYTHON:-/usr/bin/python3}
mds=${CEPH_LAB_MDS:-no} mgr=${CEPH_LAB_MGR:-no}
[ "$mds" != yes ] || mgr=yes

say() { printf 'ceph-lab: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# ---- processes: DIR/run/NAME.pid has the leader of a session, timeout(1), whose child is the daemon

runs() { # NAME -> it runs, and $pid is its leader; a zombie does not run, another's process is not ours
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    [ "$(readlink "/proc/$pid/cwd")" = "$dir" ] || return 1
    case $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) in '' | Z*) return 1 ;; esac
}

launch() { # NAME COMMAND...
    name=$1
    shift
    (
        cd "$dir"
        exec setsid timeout -k 5 "${CEPH_LAB_TTL:-7200}" "$@" </dev/null >>"$dir/log/$name.out" 2>&1 9>&-
    ) &
    echo $! >"$dir/run/$name.pid"
}

stop() { # TERM goes to the leader, which passes it on, wakes a frozen daemon, and kills it after 5 s
    ! runs mds || kill -s KILL -- "-$pid" 2>/dev/null || : # it would wait 5 s for a monitor that is ending as well
    for name in osd mgr mon; do
        ! runs $name || kill -TERM "$pid" 2>/dev/null || :
    done
    for name in mds osd mgr mon; do
        tries=0
        while runs $name && [ $tries -lt 80 ]; do tries=$((tries + 1)); sleep 0.1; done
        ! runs $name || kill -s KILL -- "-$pid" 2>/dev/null || :
        rm -f "$dir/run/$name.pid"
    done
    [ ! -s "$dir/run/sockets" ] || rm -rf -- "$(cat "$dir/run/sockets")"
}

fail() {
    say "$*"
    tail -qn 5 "$dir"/log/* >&2 2>/dev/null || :
    stop
    exit 1
}

born() { # PROCESS -> when it was started: its number may be another's by now
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20
}

keep() { # ends the cluster with its owner; it ends itself when that very cluster was stopped
    mine=$(cat "$dir/run/mon.pid")
    since=$(born "$CEPH_LAB_OWNER")
    while [ -n "$since" ] && [ "$(born "$CEPH_LAB_OWNER")" = "$since" ]; do
        [ "$(cat "$dir/run/mon.pid" 2>/dev/null)" = "$mine" ] || exit 0
        sleep 1
    done
    [ "$(cat "$dir/run/mon.pid" 2>/dev/null)" != "$mine" ] || stop
}

# ---- files

configuration() { # PORT FSID
    # Unix sockets have names of up to 107 bytes, and tests' folders long ones.
    sockets=$dir/run
    if [ ${#sockets} -gt 80 ]; then
        sockets=$(mktemp -d /tmp/ceph-lab.XXXXXX)
        echo "$sockets" >"$dir/run/sockets"
    fi
    cat >"$dir/ceph.conf" <<END
[global]
fsid = $2
mon_host = v2:127.0.0.1:$1/0
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_ipv6 = false
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = $dir/ceph.\$name.keyring
run_dir = $sockets
crash_dir = $dir/log
# Clients would leave files with these.
admin_socket =
log_file =
# One OSD has to do.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true

[client]
client_mount_timeout = 30
rados_mon_op_timeout = 30
# With osd_client_watch_timeout: what a killed client had open is free after 2 s instead of 30.
objecter_tick_interval = 0.5

[mon]
mon_data = $dir/mon
keyring = $dir/mon/keyring
log_file = $dir/log/mon.log
admin_socket = $sockets/mon.asok
mon_allow_pool_delete = true
mon_max_pg_per_osd = 2000
mon_osd_down_out_interval = 0
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_cluster_log_file = /dev/null
mon_cluster_log_to_file = false
# Each command that changes something waits for these; a second by default.
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_tick_interval = 1
mon_pg_create_interval = 1
# Health is no matter here; this keeps its warnings away.
mon_mgr_mkfs_grace = 1000000
mon_warn_on_pool_no_redundancy = false
mon_warn_on_insecure_global_id_reclaim = false
mon_warn_on_insecure_global_id_reclaim_allowed = false
mon_warn_on_osd_down_out_interval_zero = false

[mgr]
mgr_data = $dir/mgr
log_file = $dir/log/mgr.log
admin_socket = $sockets/mgr.asok
mgr_tick_period = 1
mgr_stats_period = 1
mgr_initial_modules =

[mds]
mds_data = $dir/mds
log_file = $dir/log/mds.log
admin_socket = $sockets/mds.asok
mds_cache_memory_limit = 67108864
# What one client holds, and another waits for, comes with a write of the journal: after 5 s if nobody hurries it.
mds_tick_interval = 0.1

[osd]
osd_data = $dir/osd
log_file = $dir/log/osd.log
admin_socket = $sockets/osd.asok
$(objectstore)
$(object_classes)
osd_class_load_list = *
osd_class_default_list = *
osd_client_watch_timeout = 2
# or it waits 5 s after each object that it takes out of a snapshot
osd_snap_trim_sleep_hdd = 0
osd_snap_trim_sleep_ssd = 0
osd_snap_trim_sleep_hybrid = 0
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
osd_pg_stat_report_interval_max = 1
osd_scrub_begin_hour = 0
osd_scrub_load_threshold = 0
osd_mclock_skip_benchmark = true
osd_fast_shutdown = true
# Else the OSD waits up to 5 s for a monitor that is ending as well.
osd_fast_shutdown_notify_mon = false
osd_mon_shutdown_timeout = 1
END
}

object_classes() { # Debian 13's own default is relative to /, where our daemons are not
    for classes in /usr/lib/*/rados-classes /usr/lib64/rados-classes /usr/lib/rados-classes; do
        [ ! -e "$classes/libcls_rbd.so" ] || { echo "osd_class_dir = $classes"; return; }
    done
}

objectstore() {
    case $store in
        memstore)
            echo "osd_objectstore = memstore"
            echo "memstore_device_bytes = $size"
            ;;
        bluestore)
            echo "osd_objectstore = bluestore"
            echo "bluestore_block_create = true"
            echo "bluestore_block_size = $size"
            echo "bluestore_cache_autotune = false"
            echo "bluestore_cache_size = 134217728"
            echo "bluestore_fsck_on_mount = false"
            ;;
    esac
}

# The monitor takes all keys and capabilities over when it is made: no command has to tell them later.
keyrings() {
    key mon. seed --cap mon 'allow *'
    key osd.0 ceph.osd.0.keyring --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
    key mgr.x ceph.mgr.x.keyring --cap mon 'allow profile mgr' --cap osd 'allow *' --cap mds 'allow *'
    key mds.a ceph.mds.a.keyring --cap mon 'allow profile mds' --cap mgr 'allow profile mds' --cap osd 'allow *' \
        --cap mds 'allow *'
    key client.admin ceph.client.admin.keyring --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' \
        --cap mds 'allow *'
    key client.imgbackend ceph.client.imgbackend.keyring \
        --cap mon 'profile rbd' --cap mgr 'profile rbd' --cap osd 'profile rbd'
    cat "$dir"/ceph.*.keyring >>"$dir/seed"
}

key() { # NAME FILE CAPABILITY...
    keyring=$dir/$2
    name=$1
    shift 2
    ceph-authtool --create-keyring "$keyring" --gen-key -n "$name" "$@" >"$dir/log/keys.out" 2>&1 ||
        fail "ceph-authtool failed for $name"
}

free_port() { # below those that the kernel gives to clients
    "$python" -SE - <<'END'
import random, socket
while True:
    port = random.randrange(20000, 30000)
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
END
}

# ---- commands

start() {
    for command in ceph-mon ceph-osd ceph-authtool monmaptool timeout setsid; do
        command -v $command >/dev/null || die "there is no $command; see tests/labs/ceph-lab.sh for Debian's packages"
    done
    [ "$mds" != yes ] || command -v ceph-mds >/dev/null || die "there is no ceph-mds; Debian's package has its name"
    case $store in memstore | bluestore) ;; *) die "CEPH_LAB_STORE is memstore or bluestore, not $store" ;; esac
    "$python" -c 'import rados, rbd' 2>/dev/null || die "$python cannot import rados and rbd; see ceph-lab.sh link"
    claim
    keyrings
    fsid=$(cat /proc/sys/kernel/random/uuid)
    port=$(free_port)
    configuration "$port" "$fsid"
    monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$port/0]" "$dir/monmap" \
        >"$dir/log/monmap.out" 2>&1 || fail "monmaptool failed"
    ceph-mon -c "$dir/ceph.conf" -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/seed" \
        >>"$dir/log/mon.out" 2>&1 || fail "the monitor's --mkfs failed"
    rm "$dir/seed" "$dir/monmap"
    launch mon ceph-mon -f -c "$dir/ceph.conf" -i a
    # It asks the monitor for the map of monitors, and waits until it has it.
    osd=$(cat /proc/sys/kernel/random/uuid)
    timeout 60 ceph-osd -c "$dir/ceph.conf" -i 0 --mkfs --osd-uuid "$osd" >>"$dir/log/osd.out" 2>&1 ||
        fail "the OSD's --mkfs failed"
    admin register "$osd" "$pools" || fail "registering the OSD failed"
    [ "$mgr" != yes ] || launch mgr ceph-mgr -f -c "$dir/ceph.conf" -i x
    [ "$mds" != yes ] || { admin file-system && launch mds ceph-mds -f -c "$dir/ceph.conf" -i a; } ||
        fail "making the file system failed"
    launch osd ceph-osd -f -c "$dir/ceph.conf" -i 0
    admin wait "$pools" || fail "the pools did not become usable"
    # In a session of its own: what ends its owner must not end it too.
    [ -z "${CEPH_LAB_OWNER:-}" ] || setsid "$here/ceph-lab.sh" keep "$dir" </dev/null >/dev/null 2>&1 9>&- &
    say "started; CEPH_CONF=$dir/ceph.conf rbd ls ${pools%% *}"
}

claim() { # an empty folder, or that of a cluster that does not run
    if [ -e "$dir/.ceph-lab" ]; then
        exec 9>"$dir/.ceph-lab"
        flock -n 9 || die "another start is under way in $dir"
        for name in mds osd mgr mon; do ! runs $name || die "$dir has a cluster that runs; stop it first"; done
        rm -rf "$dir"/mon "$dir"/osd "$dir"/mgr "$dir"/mds "$dir"/run "$dir"/log "$dir"/ceph.*
    elif [ -n "$(ls -A "$dir")" ]; then
        die "$dir is not empty, and not a cluster's"
    else
        exec 9>"$dir/.ceph-lab"
        flock -n 9 || die "another start is under way in $dir"
    fi
    chmod 700 "$dir"
    mkdir "$dir/mon" "$dir/osd" "$dir/mgr" "$dir/mds" "$dir/run" "$dir/log"
}

admin() { timeout 60 "$python" -E "$here/ceph_admin.py" "$dir" "$@"; }

status() {
    [ -d "$dir/run" ] || { echo "there is no cluster in $dir"; exit 3; }
    answer=0
    for name in mon osd mgr mds; do
        [ -e "$dir/run/$name.pid" ] || continue
        if runs $name; then echo "$name: runs, process $pid"; else echo "$name: ended"; answer=3; fi
    done
    [ -e "$dir/run/mon.pid" ] || { echo "stopped"; exit 3; }
    [ $answer = 3 ] || admin status || answer=3
    exit $answer
}

link() { # the modules fit one Python alone, that of their names
    venv=$1
    for packages in "$venv"/lib/python3.*/site-packages; do
        version=${packages#"$venv"/lib/python} version=${version%%/*}
        for module in rbd rados; do
            set -- /usr/lib/python3/dist-packages/$module.cpython-"$(echo "$version" | tr -d .)"-*-linux-gnu.so
            [ -e "$1" ] || die "no $module for Python $version of $venv:" \
                "install python3-$module, and make it with /usr/bin/python3 (Debian 12: Python 3.11, Debian 13: 3.13)"
            [ "$(readlink "$packages/${1##*/}")" = "$1" ] || ln -sf "$1" "$packages/"
        done
    done
}

command=${1:-help}
case $command in
    start | stop | status | purge | link | keep)
        [ $# -eq 2 ] || die "usage: ceph-lab.sh $command $([ "$command" = link ] && echo VENV || echo DIR)"
        if [ "$command" = start ]; then mkdir -p "$2"; fi
        if [ ! -d "$2" ]; then die "there is no folder $2"; fi
        dir=$(cd -- "$2" && pwd -P)
        ;;
esac
case $command in
    start) start ;;
    keep) keep ;;
    status) status ;;
    stop | purge)
        [ -e "$dir/.ceph-lab" ] || die "$dir is no cluster's"
        stop
        [ "$command" = stop ] || rm -rf -- "$dir"
        ;;
    link) link "$dir" ;;
    *)
        sed -n '2,/^set /{/^#/p;}' "$0"
        exit 2
        ;;
esac
