#!/bin/bash
# Runs a command on a real device-mapper and LVM, on a host whose kernel need have neither:
# in User-mode Linux, a kernel that is a process.  No privileges, no KVM; ready in about 3 s.
#
#   lvm-lab.sh COMMAND [ARGUMENT...]       try: lvm-lab.sh lvs
#
# Inside, as root:
#   /                 the host's files; what is written there is thrown away
#   the folder that it is called in   the host's own, writable (LVM_LAB_CWD=ro: thrown away too);
#                     by hostfs: no O_DIRECT, no extended attributes of users there
#   /run/scratch      an ext4 of its own, named by TMPDIR
#   /dev, /proc, /sys, /run           the lab's own
#   the volume group $LVM_LAB_VG, with the thin pool $LVM_LAB_POOL in it
# Environment, arguments and exit status pass through, stdout and stderr stay apart; nothing is
# read from stdin.  LVM_LAB=1 tells tests where they are.  There is one CPU, no network but
# 127.0.0.1, no udev, and no dmeventd.
#
# Exit status: the command's; 124 after the time limit; 125 where there can be no lab here;
# 126 where the lab broke while the command ran.
#
# LVM_LAB_VG=imgtest    LVM_LAB_POOL=thinpool     the names; an empty pool: none is made; an empty group: no LVM
# LVM_LAB_SIZE=8G       LVM_LAB_POOL_SIZE=3G      of the group, which is a sparse file, and the pool
# LVM_LAB_MEM=1G        LVM_LAB_TIMEOUT=600       memory; seconds in which all has to be over
# LVM_LAB_CPU=N         of the CPUs that it may run on the N-th, modulo their number: it runs on one, for two
#                       processes take turns at each of its system calls, which takes three times as long on two
# LVM_LAB_TMP=DIR       where the group's file is  [.dev at the root, /var/tmp or /tmp]
# LVM_LAB_VERBOSE=1     shows what the kernel and the set-up said
#
# Debian: user-mode-linux lvm2 thin-provisioning-tools busybox-static e2fsprogs, and gcc libc6-dev
# where the CPU has AMX (uml-xstate.c tells why).
set -u
LC_ALL_WAS=${LC_ALL-unset} LC_ALL=C
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
dev=$(dirname -- "$(dirname -- "$here")")/.dev
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
: "${LVM_LAB_SIZE:=8G}" "${LVM_LAB_POOL_SIZE:=3G}" "${LVM_LAB_MEM:=1G}" "${LVM_LAB_TIMEOUT:=600}"
export LVM_LAB=1 LVM_LAB_VG=${LVM_LAB_VG-imgtest} LVM_LAB_POOL=${LVM_LAB_POOL-thinpool}
uml=/usr/bin/linux.uml
modules=$(echo /usr/lib/uml/modules/*)

die() { echo "lvm-lab: $*" >&2; exit 125; }

[ $# -gt 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 125; }
for tool in "$uml" busybox lvm thin_check mke2fs setsid taskset; do
    command -v "$tool" >/dev/null ||
        die "$tool is missing; install user-mode-linux lvm2 thin-provisioning-tools busybox-static e2fsprogs"
done
[ -d "$modules" ] || die "$uml is there without its modules, $modules"

# ------------------------------------------------------------------ where its files are
free() { df --output=avail -B1M -- "$1" 2>/dev/null | tail -n 1; }
mebi() { echo $(($(numfmt --from=iec "$1") >> 20)); }

roomy() { # its path goes on the kernel's command line and into mount options, and is used inside
    case $1 in *[!A-Za-z0-9_./-]* | /dev/* | /proc/* | /run/* | /sys/*) return 1 ;; esac
    mkdir -p "$1" 2>/dev/null && [ -w "$1" ] && [ "$(free "$1")" -ge 3000 ]
}

for place in "${LVM_LAB_TMP:-$dev/lvm-lab}" /var/tmp /tmp; do
    roomy "$place" && break
    [ "$place" != /tmp ] || die "neither $dev nor /var/tmp nor /tmp has 3 GB free and a plain name; name a folder: LVM_LAB_TMP"
done
run=$(mktemp -d "$place/lvm-lab.XXXXXX") || die "cannot write in $place"

# The kernel's memory is a file, best in memory, where it has to be executable.  A container's
# /dev/shm often has 64 MB only, and a chroot may have none.
memory=/dev/shm
grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/mounts && memory=$run
[ "$(stat -fc %T /dev/shm 2>/dev/null)" = tmpfs ] && [ -w /dev/shm ] &&
    [ "$(free /dev/shm)" -gt $((3 * $(mebi "$LVM_LAB_MEM"))) ] || memory=$run    # others may be at it too

# ------------------------------------------------------------------ what takes it all away
# A process of its own, which no signal to this one reaches: when this one is gone, in whatever
# way, or too late, it ends the lab, which is one group of processes, and removes the files.
# shellcheck disable=SC2317  # it is called
keep() { # FOLDER SECONDS
    trap '' INT TERM HUP
    read -r -t "$2" -u 7
    [ $? -le 128 ] || touch "$1/late"
    read -r group <"$1/group" && kill -KILL -- "-$group" 2>/dev/null
    read -r -u 7
    rm -rf "$1"
}
export -f keep
mkfifo "$run/life"
# shellcheck disable=SC2016  # for the inner shell
setsid bash -c 'keep "$@" 7<"$1/life"' lvm-lab "$run" "$LVM_LAB_TIMEOUT" </dev/null >/dev/null 2>&1 &
keeper=$!
exec 8>"$run/life"
# shellcheck disable=SC2317  # it is called
end() { exec 8>&-; wait "$keeper"; }
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ------------------------------------------------------------------ what the lab is told
shim=
if grep -qw amx_tile /proc/cpuinfo; then
    shim=$dev/uml-xstate.so
    if [ ! "$shim" -nt "$here/uml-xstate.c" ]; then
        command -v gcc >/dev/null || die "gcc and libc6-dev are missing, which a CPU with AMX needs here"
        mkdir -p "$dev"
        { gcc -O2 -shared -fPIC -o "$run/shim" "$here/uml-xstate.c" && mv "$run/shim" "$shim"; } || die "cannot build $shim"
    fi
fi
# A pyenv shim is a script that forks dozens of times, which takes seconds in there.
case $(command -v python3) in
    */shims/*) PATH=$(dirname -- "$(python3 -c 'import sys; print(sys.executable)')"):$PATH ;;
esac
export TMPDIR=/run/scratch
(
    if [ "$LC_ALL_WAS" = unset ]; then unset LC_ALL; else LC_ALL=$LC_ALL_WAS; fi
    unset -f keep
    export -n LVM_LAB_SIZE LVM_LAB_POOL_SIZE LVM_LAB_MEM LVM_LAB_TIMEOUT
    export -p >"$run/environment"
)
printf '%q ' "$@" >"$run/command"
printf '%s\n' "$PWD" >"$run/folder"
cat >"$run/settings" <<END
RUN='$run' BUSYBOX='$(command -v busybox)' MODULES='$modules'
VG='$LVM_LAB_VG' POOL='$LVM_LAB_POOL' POOL_SIZE='$LVM_LAB_POOL_SIZE' FOLDER_MODE='${LVM_LAB_CWD:-rw}'
END
cp "$here/lvm-lab-inside.sh" "$run/inside.sh"
{ truncate -s "$LVM_LAB_SIZE" "$run/group.img" && truncate -s 8G "$run/scratch.img"; } || die "cannot make files in $run"
mke2fs -q -F -t ext4 -m 0 -O ^has_journal -E lazy_itable_init=1,nodiscard "$run/scratch.img" || die "mke2fs failed"
ulimit -n "$(ulimit -Hn)" # the kernel keeps a descriptor for each open file of the host

cpus=()
IFS=, read -ra ranges < <(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
for range in "${ranges[@]}"; do
    for ((cpu = ${range%-*}; cpu <= ${range#*-}; cpu++)); do cpus+=("$cpu"); done
done
cpu=${cpus[${LVM_LAB_CPU:-$$} % ${#cpus[@]}]}

# ------------------------------------------------------------------ the run
exec 3>&1 4>&2
(
    echo "$BASHPID" >"$run/group"
    TMPDIR=$memory LD_PRELOAD=$shim exec setsid taskset -c "$cpu" "$uml" "mem=$LVM_LAB_MEM" "uml_dir=$run" umid=uml \
        root=/dev/root rootfstype=hostfs rootflags=/ ro "ubda=$run/group.img" "ubdb=$run/scratch.img" \
        ssl=null con=null con0=null,fd:1 con1=null,fd:3 con2=null,fd:4 panic=-1 noreboot quiet \
        init="$(command -v busybox)" -- sh "$run/inside.sh"
) </dev/null >"$run/kernel.log" 2>&1 7>&- 8>&- &
exec 3>&- 4>&-
{ wait $!; } 2>/dev/null    # or bash tells at length that it was killed

told() { cat "$run/setup.log"; echo '-- the kernel:'; tail -n 30 "$run/kernel.log"; } 2>/dev/null
[ "${LVM_LAB_VERBOSE:-0}" = 0 ] || told >&2
if [ -s "$run/status" ]; then exit "$(cat "$run/status")"; fi
if [ -e "$run/late" ]; then echo "lvm-lab: ended after $LVM_LAB_TIMEOUT s (LVM_LAB_TIMEOUT)" >&2; exit 124; fi
told >&2
[ ! -e "$run/ready" ] || { echo "lvm-lab: the lab broke while the command ran; the above tells more" >&2; exit 126; }
die "User-mode Linux did not come up; the above tells more"
