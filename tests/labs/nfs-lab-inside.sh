# What nfs-lab.sh has lvm-lab.sh run: it starts the server, mounts the folder twice, and becomes the command.
# What goes wrong is told on stderr, with status 125.
set -u
fail() { echo "nfs-lab: inside: $*" >&2; exit 125; }

programs() { PATH=$NFS_LAB_HOME/root/usr/sbin:$NFS_LAB_HOME/root/sbin:$PATH LD_LIBRARY_PATH=$NFS_LAB_LIBRARIES "$@"; }

export_folders() { # each on a name below one root, which NFS 4 wants; ext4, for an overlay cannot be exported
    root=/run/scratch/exported
    for name in shared squashed; do
        mkdir -p "/run/scratch/$name" "$root/$name"
        mount --bind "/run/scratch/$name" "$root/$name" || fail "no folder to share"
    done
    chmod 1777 /run/scratch/squashed
    mkdir -p /run/rpc_pipefs /var/lib/nfs/v4recovery /etc/exports.d
    : >/var/lib/nfs/etab
    : >/var/lib/nfs/rmtab
    cat >/etc/exports <<EXPORTS
$root *(rw,no_root_squash,no_subtree_check,insecure,fsid=0)
$root/shared *(rw,no_root_squash,no_subtree_check,insecure,fsid=1,nohide)
$root/squashed *(rw,root_squash,no_subtree_check,insecure,fsid=2,nohide)
EXPORTS
    programs exportfs -ra || fail "nothing can be exported"
}

start_server() { # no time of grace for clients of an earlier server: there was none
    programs rpc.mountd -N 3 || fail "rpc.mountd did not start"
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    echo 10 >/proc/fs/nfsd/nfsv4leasetime
    programs rpc.nfsd -N 3 --no-udp 4 || fail "rpc.nfsd did not start"
    for _ in {1..50}; do
        [ "$(cat /proc/fs/nfsd/v4_end_grace)" != Y ] || return 0
        echo Y >/proc/fs/nfsd/v4_end_grace 2>/dev/null
        sleep 0.1
    done
    fail "the server's time of grace does not end"
}

# The kernel is one client of a server, and keeps what it was allowed to cache over all its mounts; of each network
# namespace it is another, under the host name there.
make_other_host() {
    modprobe veth && ip netns add B && ip link add nfsA type veth peer name nfsB netns B &&
        ip address add 10.99.0.1/30 dev nfsA && ip link set nfsA up &&
        ip -n B address add 10.99.0.2/30 dev nfsB && ip -n B link set nfsB up || fail "no network of a second host"
}

mount_folder() { # PLACE SERVER CLIENT
    mkdir -p "$1"
    mount -i -t nfs4 -o "vers=$NFS_LAB_VERSION,addr=$2,clientaddr=$3,nosharecache" "$2:/$folder" "$1" ||
        { echo "nfs-lab: inside: cannot mount $1" >&2; return 125; }
}

delay() { # COMMAND...: runs tc
    [ "$NFS_LAB_DELAY" = 0 ] || "$@" || fail "no delay by netem"
}

modprobe -a nfsd nfsv4 || fail "this kernel has no NFS"
mount -t nfsd nfsd /proc/fs/nfsd || fail "no /proc/fs/nfsd"
export_folders
start_server
make_other_host
export folder=shared
[ -z "$NFS_LAB_SQUASH" ] || folder=squashed
mount_folder /mnt/A 127.0.0.1 127.0.0.1 || exit
export -f mount_folder
nsenter --net=/run/netns/B unshare --uts bash -c 'hostname B && mount_folder /mnt/B 10.99.0.1 10.99.0.2' || exit
delay modprobe sch_netem
delay tc qdisc add dev lo root netem delay "$NFS_LAB_DELAY"
delay ip netns exec B tc qdisc add dev nfsB root netem delay "$NFS_LAB_DELAY"
NFS_OPTIONS=vers=$NFS_LAB_VERSION,addr=127.0.0.1,clientaddr=127.0.0.1,nosharecache
unset LVM_LAB LVM_LAB_VG LVM_LAB_POOL NFS_LAB_HOME NFS_LAB_LIBRARIES
export NFS_A=/mnt/A NFS_B=/mnt/B NFS_SERVER=/run/scratch/$folder NFS_OPTIONS
unset -f mount_folder
export -n folder
exec "$@"
