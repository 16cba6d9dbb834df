#!/bin/sh
# A tiny Linux to boot directly: Debian's kernel for clouds, and a ramdisk of busybox and a few
# modules, which tells on the serial console what it finds:
#
#   GUEST DISK vda bytes=N sum=SHA256         each disk: its size, and the sum of its first MiB
#   GUEST LABEL swap=vdc                      where each of the labels that guests look for is
#   GUEST MOUNTED ephemeral0 ext4 free=N      what is on it, and how many bytes are free
#   GUEST SWAP vdc bytes=N                    swap that it took into use
#   GUEST FILE PATH BASE64                    each file of the config drive
#   GUEST CMDLINE WORDS
#   GUEST DONE                                and then it waits to be ended
#
#   tinylinux.sh install        make it, once, and print its folder: vmlinuz and ramdisk.gz are in it
#
# The package is downloaded and unpacked, not installed: the machine's own kernels and boot loader
# are left alone, and no ramdisk is made for it.  No privileges are needed.
#
# IMGBACKEND_LABS       where labs are; there it is "tinylinux"     [.dev/labs at the root]
# Debian: busybox-static
set -eu
LC_ALL=C.UTF-8
export LC_ALL
here=$(cd -- "$(dirname -- "$0")" && pwd -P)
labs=${IMGBACKEND_LABS:-$here/../../.dev/labs}
home=$labs/tinylinux
package=linux-image-cloud-amd64
# In this order, for each needs those before it; what the kernel has built in is no file.
modules='virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
    scsi_common scsi_mod libata ata_piix cdrom sr_mod isofs crc16 crc32c_generic mbcache jbd2 ext4'

say() { printf 'tinylinux: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

. "$here/packages.sh"

kernel() { # APT-OPTION...: the package with the kernel itself
    apt-cache "$@" depends "$package" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1
}

unpack() { # FOLDER: vmlinuz and the modules, of the package in it
    mkdir "$1/unpacked" "$1/root" "$1/root/modules"
    dpkg-deb -x "$1"/linux-image-*.deb "$1/unpacked"
    cp "$1"/unpacked/boot/vmlinuz-* "$1/vmlinuz"
    for module in $modules; do
        file=$(find "$1/unpacked" -name "$module.ko*" | head -n 1)
        case $file in
            '') ;;
            *.xz) busybox xz -dc "$file" >"$1/root/modules/$module.ko" ;;
            *.ko) cp "$file" "$1/root/modules/" ;;
            *) die "$file is compressed in a way that is not known here" ;;
        esac
    done
}

make_ramdisk() { # FOLDER
    mkdir -p "$1/root/bin" "$1/root/dev" "$1/root/proc" "$1/root/sys" "$1/root/mnt"
    cp "$(command -v busybox)" "$1/root/bin/busybox"
    for applet in cat echo mount umount insmod usleep sleep seq dd sha256sum findfs swapon find base64 stat sed cut; do
        busybox --list | grep -qx "$applet" || die "busybox has no $applet; install busybox-static"
        ln -s busybox "$1/root/bin/$applet"
    done
    init >"$1/root/init"
    chmod 755 "$1/root/init"
    (cd "$1/root" && find . | sort | busybox cpio -o -H newc 2>/dev/null) | gzip -9n >"$1/ramdisk.gz"
}

init() {
    # shellcheck disable=SC2086  # a list, in one line
    printf '#!/bin/busybox sh\nmodules="%s"\n' "$(printf '%s ' $modules)"
    cat <<'END'
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1 </dev/null
for module in $modules; do
    [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko || echo "GUEST FAILED insmod $module"
done
for _ in $(seq 100); do    # a CD-ROM is found some time after its driver was loaded
    findfs LABEL=config-2 >/dev/null 2>&1 || findfs LABEL=cidata >/dev/null 2>&1 && break
    usleep 50000
done
for disk in /sys/block/vd* /sys/block/sd* /sys/block/sr*; do
    [ -e "$disk/size" ] || continue
    name=${disk##*/}
    sum=$(dd if=/dev/$name bs=1048576 count=1 2>/dev/null | sha256sum | cut -d' ' -f1)
    echo "GUEST DISK $name bytes=$(($(cat $disk/size) * 512)) sum=$sum"
done
for label in config-2 cidata swap ephemeral0 ephemeral1; do
    device=$(findfs LABEL=$label 2>/dev/null) || continue
    echo "GUEST LABEL $label=${device#/dev/}"
    case $label in
        swap)
            swapon $device
            sed -n 's|^/dev/\([^ ]*\) *\t*partition\t*\([0-9]*\).*|\1 \2|p' /proc/swaps | while read -r name size; do
                echo "GUEST SWAP $name bytes=$((size * 1024))"
            done
            ;;
        ephemeral*)
            mount -t ext4 $device /mnt && eval "echo GUEST MOUNTED $label ext4 $(stat -f -c 'free=$((%f * %S))' /mnt)"
            umount /mnt
            ;;
        *)
            mount -t iso9660 -o ro $device /mnt
            (cd /mnt && find . -type f) | while read -r file; do
                echo "GUEST FILE ${file#./} $(base64 "/mnt/$file" | while read -r line; do echo -n "$line"; done)"
            done
            umount /mnt
            ;;
    esac
done
echo "GUEST CMDLINE $(cat /proc/cmdline)"
echo "GUEST DONE"
while :; do sleep 3600; done
END
}

install() {
    [ "$(uname -m)" = x86_64 ] || die "is made for x86_64 alone"
    for tool in apt-get dpkg-deb busybox gzip; do
        command -v $tool >/dev/null || die "$tool is missing; Debian has it in dpkg, apt, busybox-static, gzip"
    done
    mkdir -p "$labs"
    home=$(cd -- "$labs" && pwd -P)/tinylinux
    if command -v flock >/dev/null; then exec 8>"$labs/tinylinux.lock"; flock 8; fi
    wanted=$(cat "$0" "$here/packages.sh" | cksum)    # changes when these files do
    if [ "$(cat "$home/complete" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$home"
        mkdir "$home"
        download "$home" kernel >"$labs/tinylinux.log" 2>&1 ||
            { tail -n 5 "$labs/tinylinux.log" >&2; die "no kernel can be downloaded; see $labs/tinylinux.log"; }
        unpack "$home"
        make_ramdisk "$home"
        rm -rf "$home/unpacked" "$home/root" "$home/lists" "$home/cache" "$home"/*.deb
        printf %s "$wanted" >"$home/complete"
    fi
    printf '%s\n' "$home"
}

case ${1:-} in
    install) install ;;
    *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
