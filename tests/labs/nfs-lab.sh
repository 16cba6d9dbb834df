#!/bin/bash
# Runs a command where a folder is shared by NFS: a server of the kernel, and two clients of it whose caches are
# their own, all in one User-mode Linux.  It is lvm-lab.sh's, without volumes: see there for what is inside.
#
#   nfs-lab.sh [--root-squash] COMMAND [ARGUMENT...]
#                                     try: nfs-lab.sh sh -c 'echo hello >$NFS_A/one; cat $NFS_B/one'
#   nfs-lab.sh install                have the programs of the server, once, and print where they are
#
# Inside:
#   $NFS_A and $NFS_B, /mnt/A and /mnt/B      the folder as each of two hosts sees it
#   $NFS_SERVER                               the folder itself, on the server's ext4
#   $NFS_OPTIONS                              options to mount 127.0.0.1:/shared with once more, as nfs4 by mount -i;
#                                             127.0.0.1:/squashed is the other export, where root counts as nobody
#   NFS_LAB=1                                 tells tests where they are
# --root-squash: root is nobody to the server on /mnt/A and /mnt/B.
# Exit status, and what passes through, as in lvm-lab.sh.
#
# NFS_LAB_VERSION=4.2   of the protocol; 4.1 can tell no holes of files
# NFS_LAB_DELAY=0       of each packet, as tc-netem(8) takes it: 1ms
# NFS_LAB_TIMEOUT=600   NFS_LAB_TMP=DIR   NFS_LAB_CPU=N      as LVM_LAB_... there
# IMGBACKEND_LABS       where labs are; there it is "nfs"     [.dev/labs at the root]
#
# The programs of the server are Debian's, downloaded and unpacked, not installed: the server is in the kernel of the
# lab, and this machine runs none.
set -u
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
labs=${IMGBACKEND_LABS:-$(dirname -- "$(dirname -- "$here")")/.dev/labs}

die() { echo "nfs-lab: $*" >&2; exit 125; }

[ $# -gt 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 125; }

. "$here/packages.sh"

# shellcheck disable=SC2317  # download calls it
wanted() { echo nfs-kernel-server nfs-common libnfsidmap1 libtirpc3 libtirpc-common libevent-core-2.1-7 libwrap0 keyutils libkeyutils1; }

install() {
    for tool in apt-get dpkg-deb flock; do
        command -v $tool >/dev/null || die "there is no $tool here to get the programs of an NFS server with"
    done
    mkdir -p "$labs" || die "cannot write in $labs"
    home=$(cd -- "$labs" && pwd -P)/nfs
    exec 9>"$labs/nfs.lock"
    flock 9
    made_of=$(cat "$0" "$here/packages.sh" | cksum)
    if [ "$(cat "$home/complete" 2>/dev/null)" != "$made_of" ]; then
        rm -rf "$home"
        mkdir -p "$home/packages" "$home/root"
        download "$home/packages" wanted >"$labs/nfs.log" 2>&1 ||
            { tail -n 5 "$labs/nfs.log" >&2; die "the programs of an NFS server cannot be downloaded; see $labs/nfs.log"; }
        for package in "$home"/packages/*.deb; do dpkg-deb -x "$package" "$home/root"; done
        rm -rf "$home/packages"
        for program in rpc.nfsd rpc.mountd exportfs; do
            missing=$(LD_LIBRARY_PATH=$(libraries) ldd "$home/root/usr/sbin/$program" | sed -n 's/ => not found//p')
            [ -z "$missing" ] || die "$program needs what this machine lacks: $missing"
        done
        printf %s "$made_of" >"$home/complete"
    fi
    exec 9>&-
}

libraries() { # of what was unpacked
    find "$home/root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd:
}

install
if [ "$1" = install ]; then echo "$home"; exit; fi
export NFS_LAB_SQUASH=
if [ "$1" = --root-squash ]; then NFS_LAB_SQUASH=1; shift; fi
[ $# -gt 0 ] || die "which command?"
export NFS_LAB=1 NFS_LAB_HOME=$home NFS_LAB_LIBRARIES
NFS_LAB_LIBRARIES=$(libraries)
export NFS_LAB_VERSION=${NFS_LAB_VERSION:-4.2} NFS_LAB_DELAY=${NFS_LAB_DELAY:-0}
export LVM_LAB_VG='' LVM_LAB_TIMEOUT=${NFS_LAB_TIMEOUT:-600}
[ -z "${NFS_LAB_TMP:-}" ] || export LVM_LAB_TMP=$NFS_LAB_TMP
[ -z "${NFS_LAB_CPU:-}" ] || export LVM_LAB_CPU=$NFS_LAB_CPU
exec "$here/lvm-lab.sh" bash "$here/nfs-lab-inside.sh" "$@"
