# What lvm-lab.sh has its kernel run as the first process, by busybox sh, which forks several
# times faster in there than bash.  First on the host's root, read-only; then, with "inside" as
# argument, in the lab's own.
# shellcheck source=/dev/null
. "${0%/*}/settings"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
b() { "$BUSYBOX" "$@"; }
off() { b sync; b poweroff -f; while :; do b sleep 1; done; }
fail() { echo "lvm-lab: inside: $*"; off; }

make_root() {
    b mount -t proc proc /proc
    b mount -t sysfs sysfs /sys
    b mount -t tmpfs -o mode=755 tmpfs /run
    b mkdir /run/disk /run/root
    b insmod "$MODULES/kernel/fs/overlayfs/overlay.ko" || fail "no overlayfs"
    b mount -t ext4 -o noatime /dev/ubdb /run/disk || fail "no scratch disk"
    b mkdir -m 755 /run/disk/upper /run/disk/work
    b mkdir -m 1777 /run/disk/scratch
    b mount -t overlay -o lowerdir=/,upperdir=/run/disk/upper,workdir=/run/disk/work overlay $root || fail "no overlay"
    b mkdir -p $root/dev $root/proc $root/sys $root/run $root/tmp
    b mount -t tmpfs -o mode=755 tmpfs $root/run
    b mkdir -p $root/run/lvm-lab $root/run/scratch $root/run/lock $root/run/lvm "$root/lib/modules/${MODULES##*/}"
    b mount --bind /run/disk/scratch $root/run/scratch
    b mount --bind "$MODULES" "$root/lib/modules/${MODULES##*/}"
    b mount -t hostfs -o "$RUN" none $root/run/lvm-lab || fail "no folder of this run"
    if [ "$FOLDER_MODE" = rw ] && [ "$folder" != / ]; then
        b mkdir -p "$root$folder"
        b mount -t hostfs -o "$folder" none "$root$folder" || fail "no $folder (commas and quotes in it are not possible)"
    fi
    for each in dev proc sys; do b mount --move /$each $root/$each; done
    b mkdir -p $root/dev/shm $root/dev/pts
    b mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
    b mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts $root/dev/pts
    [ -e $root/sbin/modprobe ] || b ln -s "$BUSYBOX" $root/sbin/modprobe    # lvm2 calls it
}

make_group() {
    b modprobe -a dm-mod dm-snapshot dm-thin-pool loop || fail "no device-mapper"
    b mkdir -p /etc/lvm
    # Of memory that lvm2 reserves every page is touched, which takes a third of its time in here.
    cat >/etc/lvm/lvmlocal.conf <<END
devices {
    types = [ "ubd", 16 ]
    global_filter = [ "a|^/dev/ubda$|", "a|^/dev/loop|", "a|^/dev/mapper/|", "r|.*|" ]
    multipath_component_detection = 0
    md_component_detection = 0
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
}
backup {
    backup = 1
    archive = 0
}
activation {
    reserved_memory = 0
    reserved_stack = 0
    monitoring = 0
    udev_sync = 0
    udev_rules = 0
    verify_udev_operations = 0
}
END
    vgcreate -q -y --dataalignment 1m "$VG" /dev/ubda || fail "vgcreate failed"
    [ -z "$POOL" ] || lvcreate -q -y --type thin-pool -L "$POOL_SIZE" --chunksize 64k -n "$POOL" "$VG" ||
        fail "making the thin pool failed"
}

run_command() { # its output goes by way of pipes, for it may not have our terminals
    b stty -F /dev/tty1 raw -echo
    b stty -F /dev/tty2 raw -echo
    b mkfifo /run/out /run/err
    b cat /run/out >/dev/tty1 & out=$!
    b cat /run/err >/dev/tty2 & err=$!
    # shellcheck disable=SC2016  # for the inner shell
    /bin/bash -c 'cd "$1" && . "$0/environment" && eval "exec $(<"$0/command")"' /run/lvm-lab "$folder" \
        </dev/null >/run/out 2>/run/err
    status=$?
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do    # what it left may hold a pipe
        [ -d /proc/$out ] || [ -d /proc/$err ] || break
        b usleep 50000
    done
}

if [ "${1:-}" != inside ]; then
    root=/run/root
    read -r folder <"${0%/*}/folder"
    make_root
    exec "$BUSYBOX" chroot $root "$BUSYBOX" sh /run/lvm-lab/inside.sh inside
fi
read -r folder <"${0%/*}/folder"
exec >/run/lvm-lab/setup.log 2>&1 </dev/null
b ln -sf /proc/self/fd /dev/fd
b rm -f /dev/pty[a-z]* /dev/tty[a-zA-Z]* /dev/tty[1-9][0-9]    # lvm2 looks at each at every command
for n in 0:stdin 1:stdout 2:stderr; do b ln -sf "/proc/self/fd/${n%:*}" "/dev/${n#*:}"; done
b hostname lvmlab
b ifconfig lo 127.0.0.1 up
[ -z "$VG" ] || make_group
: >/run/lvm-lab/ready
run_command
cd /
echo "$status" >/run/lvm-lab/status
off
