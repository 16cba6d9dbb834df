#!/bin/bash
# A real libvirtd with QEMU, as a plain process: no systemd, no D-Bus, no polkit, no cgroups.
#
#   libvirt-lab.sh start DIR     start it, and print its URI; also again after a kill
#   libvirt-lab.sh stop DIR      end its domains, and it; twice is no error
#   libvirt-lab.sh status DIR    print the URI where it answers; else exit status 3
#
# Each DIR is a libvirtd of its own: it runs in a mount namespace where /etc/libvirt,
# /run/libvirt and /var/{lib,cache,log}/libvirt are folders of DIR, so that the machine's own
# are neither read nor written, and several run side by side.
#
# Needs root, and of Debian: libvirt-daemon-system libvirt-clients qemu-system-x86.
#   LIBVIRT_LAB_OWNER=PID   everything ends when that process does
#   LIBVIRT_LAB_USER=NAME   guests run as this user, and libvirt gives it what they open, as Debian's does
#   LIBVIRT_LAB_GROUP=NAME  this group alone may use it, as Debian's "libvirt"  [everybody]
#   LIBVIRT_LAB_TTL=7200    seconds after which everything ends in any case
set -euo pipefail

die() {
    echo "libvirt-lab: $*" >&2
    exit 1
}

command=${1:-}
case $command in start | stop | status) ;; *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;; esac
[ $# -eq 2 ] || die "give a folder"
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)

# The address of a socket has 107 bytes; a deep folder gets a short name beside it.
sockets=$dir/run
if [ ${#sockets} -gt 85 ]; then
    sockets=/tmp/imgbackend-libvirt-$(printf %s "$dir" | sha1sum | cut -c1-12)
    [ "$command" != start ] || ln -sfn "$dir/run" "$sockets"
fi
uri="qemu+unix:///system?socket=$sockets/libvirt-sock"

gone() { # no such process, or one that only its parent has still to see
    local stat
    stat=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
    [ -z "$stat" ] || [ "${stat:0:1}" = Z ]
}

pid_of() { # the libvirtd of DIR, while it lives
    local pid
    pid=$(cat "$dir/libvirtd.pid" 2>/dev/null) || return 1
    # By its environment: how its folders are seen from here differs where this is a chroot.
    [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = libvirtd ] &&
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "LIBVIRT_LAB_DIR=$dir" && echo "$pid"
}

answers() { timeout 10 virsh -q -c "$uri" uri >/dev/null 2>&1; }

configure() {
    mkdir -p "$dir"/{etc/qemu,run,lib/qemu,cache/qemu,log/qemu}
    [ -s "$dir/etc/host_uuid" ] || cat /proc/sys/kernel/random/uuid >"$dir/etc/host_uuid"
    local access='unix_sock_rw_perms = "0777"'
    [ -z "${LIBVIRT_LAB_GROUP:-}" ] ||
        access=$(printf 'unix_sock_group = "%s"\nunix_sock_rw_perms = "0770"' "$LIBVIRT_LAB_GROUP")
    cat >"$dir/etc/libvirtd.conf" <<END
$access
unix_sock_ro_perms = "0777"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "$(cat "$dir/etc/host_uuid")"
max_clients = 200
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
END
    # As root, guests leave the owners of files alone; as another user, libvirt changes them, and
    # consoles are written by a daemon of its own.
    local user=${LIBVIRT_LAB_USER:-root} group change=1 handler=logd
    [ "$user" != root ] || { change=0 handler=file; }
    group=$user
    getent group "$group" >/dev/null || group=$(id -gn "$user")
    cat >"$dir/etc/qemu.conf" <<END
user = "$user"
group = "$group"
dynamic_ownership = $change
remember_owner = $change
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "$handler"
max_core = 0
END
}

# libvirtd is the child of a process that also becomes the parent of the guests, which leave
# theirs: where the machine's first process is slow to see that one ended, libvirt waits for it.
keeper='
import ctypes, os, select, signal, sys, time
directory, owner, ttl, command = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
pid = os.fork()
if not pid:
    os.execvp(command[0], command)
with open(directory + "/libvirtd.pid.new", "w") as file:
    file.write(str(pid))
os.rename(directory + "/libvirtd.pid.new", directory + "/libvirtd.pid")
try:
    watched = os.pidfd_open(owner) if owner else None
except ProcessLookupError:
    watched, ttl = None, 0
signal.signal(signal.SIGCHLD, lambda *_: None)
wake, write = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(write)
end = time.monotonic() + ttl
def children():
    with open("/proc/self/task/%d/children" % os.getpid()) as file:
        return [int(child) for child in file.read().split()]
while True:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        sys.exit()
    ready, _, _ = select.select([wake, *([watched] if watched else [])], [], [], max(0, end - time.monotonic()))
    if wake in ready:
        os.read(wake, 4096)
    if watched in ready or time.monotonic() >= end:
        for child in children():
            os.kill(child, signal.SIGKILL)
        watched, end = None, time.monotonic() + 1
'

start() {
    [ "$(id -u)" = 0 ] || die "needs root"
    for tool in libvirtd virtlogd virsh qemu-system-x86_64 unshare; do
        PATH=$PATH:/usr/sbin command -v $tool >/dev/null || die "$tool is not installed"
    done
    if pid_of >/dev/null && answers; then
        echo "$uri"
        return
    fi
    configure
    rm -f "$dir"/run/libvirt-sock* "$dir/libvirtd.pid"
    (
        cd "$dir"
        export LIBVIRT_LAB_DIR="$dir"
        # shellcheck disable=SC2016  # for the inner shell
        exec setsid unshare -m --propagation private /bin/bash -c '
            set -e; dir=$1; keeper=$2; owner=$3; ttl=$4 user=$5
            for pair in etc:/etc run:/run lib:/var/lib cache:/var/cache log:/var/log; do
                mkdir -p "${pair#*:}/libvirt"
                mount --bind "$dir/${pair%%:*}" "${pair#*:}/libvirt"
            done
            # If root can use it and the guests cannot, libvirt asks QEMU anew what it can do at each start.
            if [ "$user" != root ] && [ -e /dev/kvm ]; then
                : >"$dir/no-kvm"
                chmod 0 "$dir/no-kvm"
                mount --bind "$dir/no-kvm" /dev/kvm
            fi
            [ "$user" = root ] || virtlogd -p /run/libvirt/virtlogd.pid &
            exec python3 -S -E -c "$keeper" "$dir" "$owner" "$ttl" \
                libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid' \
            lab "$dir" "$keeper" "${LIBVIRT_LAB_OWNER:-0}" "${LIBVIRT_LAB_TTL:-7200}" \
            "${LIBVIRT_LAB_USER:-root}" >>"$dir/log/stdio.log" 2>&1 </dev/null
    ) &
    local keeper_pid=$!
    for _ in $(seq 1500); do
        if gone $keeper_pid; then
            tail -n 20 "$dir"/log/*.log >&2
            die "libvirtd ended"
        fi
        [ "${LIBVIRT_LAB_USER:-root}" = root ] || [ -S "$dir/run/virtlogd-sock" ] || { sleep 0.05; continue; }
        if [ -S "$dir/run/libvirt-sock" ] && pid_of >/dev/null && answers; then
            echo "$uri"
            return
        fi
        sleep 0.05
    done
    stop
    die "libvirtd did not answer"
}

end_process() { # PID
    kill -TERM "$1" 2>/dev/null || return 0
    for _ in $(seq 60); do
        ! gone "$1" || return 0
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null || :
}

stop() {
    local pid file
    if pid=$(pid_of); then
        if answers; then
            for domain in $(timeout 10 virsh -q -c "$uri" list --uuid 2>/dev/null); do
                timeout 10 virsh -q -c "$uri" destroy "$domain" >/dev/null 2>&1 || :
            done
        fi
        end_process "$pid"
    fi
    for file in "$dir"/run/qemu/*.pid; do # a guest outlives a libvirtd that was killed
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        case $(cat "/proc/$pid/comm" 2>/dev/null) in qemu*) end_process "$pid" ;; esac
        rm -f "$file"
    done
    pid=$(cat "$dir/run/virtlogd.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = virtlogd ] && end_process "$pid"
    rm -f "$dir/libvirtd.pid"
    [ "$sockets" = "$dir/run" ] || rm -f "$sockets"
}

status() {
    pid_of >/dev/null && answers || exit 3
    echo "$uri"
}

PATH=$PATH:/usr/sbin:/sbin
"$command"
