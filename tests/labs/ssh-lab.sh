#!/bin/sh
# An sshd that answers one connection on its standard input and output: it needs no port, and is no service.
#
#   ssh-lab.sh install          have one, once, and print its path: the machine's own, else Debian's
#   ssh-lab.sh serve CONFIG     answer one connection, by that sshd_config
#
# Debian's is downloaded and unpacked, not installed.  As root, sshd wants an account "sshd", the folder
# /run/sshd, and a root that is not locked: it has them in a mount namespace of its own.
#
# IMGBACKEND_LABS       where labs are; there it is "ssh"     [.dev/labs at the root]
# Debian: openssh-client
set -eu
LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
labs=${IMGBACKEND_LABS:-$here/../../.dev/labs}
home=$labs/ssh

say() { printf 'ssh-lab: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

. "$here/packages.sh"

wanted() { echo openssh-server libwrap0; }

libraries() { # of the sshd that was unpacked, beside the machine's
    find "$home/root" -name 'lib*.so*' -printf '%h\n' | sort -u | paste -sd:
}

install() {
    for tool in ssh ssh-keygen; do
        command -v $tool >/dev/null || die "$tool is missing; Debian has it in openssh-client"
    done
    if command -v sshd; then return; fi
    for tool in apt-get dpkg-deb; do
        command -v $tool >/dev/null || die "there is no sshd here, and no $tool to get one with"
    done
    mkdir -p "$labs"
    home=$(cd -- "$labs" && pwd -P)/ssh
    if command -v flock >/dev/null; then exec 8>"$labs/ssh.lock"; flock 8; fi
    made_of=$(cat "$0" "$here/packages.sh" | cksum)
    if [ "$(cat "$home/complete" 2>/dev/null)" != "$made_of" ]; then
        rm -rf "$home"
        mkdir -p "$home/packages" "$home/root"
        download "$home/packages" wanted >"$labs/ssh.log" 2>&1 ||
            { tail -n 5 "$labs/ssh.log" >&2; die "no sshd can be downloaded; see $labs/ssh.log"; }
        for package in "$home"/packages/*.deb; do dpkg-deb -x "$package" "$home/root"; done
        rm -rf "$home/packages"
        missing=$(LD_LIBRARY_PATH=$(libraries) ldd "$home/root/usr/sbin/sshd" | sed -n 's/ => not found//p')
        [ -z "$missing" ] || die "sshd needs what this machine lacks:" $missing
        printf %s "$made_of" >"$home/complete"
    fi
    printf '%s\n' "$home/root/usr/sbin/sshd"
}

serve() { # CONFIG
    if server=$(command -v sshd); then
        set -- "$server" -i -f "$1"
    else
        server=$home/root/usr/sbin/sshd
        [ -x "$server" ] || die "call first: $0 install"
        LD_LIBRARY_PATH=$(libraries)
        export LD_LIBRARY_PATH
        set -- "$server" -i -f "$1"
        # Since OpenSSH 9.8 it is several programs, which know each other's places.
        for part in Session Auth; do
            program=$home/root/usr/lib/openssh/sshd-$(echo $part | tr SA sa)
            [ ! -x "$program" ] || set -- "$@" -o "Sshd${part}Path=$program"
        done
    fi
    [ "$(id -u)" = 0 ] || exec "$@"
    # shellcheck disable=SC2016  # for the inner shell
    exec unshare -m --propagation private /bin/sh -c '
        set -e
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir /run/sshd
        { cat /etc/passwd; getent passwd sshd >/dev/null || echo "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin"; } >/run/passwd
        mount --bind /run/passwd /etc/passwd
        sed "s/^root:[^:]*:/root:*:/" /etc/shadow >/run/shadow
        mount --bind /run/shadow /etc/shadow
        exec "$@"' sh "$@"
}

case ${1:-} in
    install) install ;;
    serve) [ $# -eq 2 ] || die "give a configuration of sshd"; serve "$2" ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
