"""The engine's options, on a configuration of its own: never the global CONF.

Options that Nova has keep its names and defaults, also as deprecated names, so that a
real nova.conf is understood as it is.  A driver's options are in the section of its
backend, and a source's in the section it names.
"""

import copy
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from imgbackend import errors
from imgbackend.config.cache_options import IMAGE_CACHE_OPTS
from imgbackend.types import Ti

RESERVED = frozenset({"DEFAULT", "libvirt", "glance", "image_cache", "sources", "compute"})
"""Sections that are no backends."""


def _was(name: str, group: str) -> list[cfg.DeprecatedOpt]:
    return [cfg.DeprecatedOpt(name, group=group)]


def _state_path() -> str:
    if os.geteuid() == 0:
        return "/var/lib/imgbackend"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "imgbackend")


def _address() -> str:
    """The address that this host would send from, as Nova has it: a folder may be named by it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.0", 80))  # of no host (RFC 5737); connecting a datagram socket sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


Bytes = types.Integer(min=0)

DEFAULT_OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "state_path",
        default=_state_path(),
        sample_default="/var/lib/imgbackend",
        help="The folder that defaults of other paths are in.",
    ),
    cfg.StrOpt(
        "my_ip",
        default=_address(),
        sample_default="<an address of this host>",
        help="An address of this host; used in the values of other options only.",
    ),
    cfg.StrOpt(
        "host",
        default=socket.gethostname(),
        sample_default="<host name>",
        help="The name of this host: other hosts of a shared instances_path know it by this, a Nova's too.",
    ),
    cfg.StrOpt(
        "instances_path",
        default="$state_path/instances",
        help="The folder of the instances, of the base images and of the locks; a Nova's own may be named.",
    ),
    cfg.StrOpt(
        "images_type",
        default="default",
        deprecated_opts=_was("images_type", "libvirt"),
        help="The backend that new disks are made on: the name of a section with a driver, or of a driver. "
        "flat is raw; default is qcow2, or raw where use_cow_images is false.",
    ),
    cfg.BoolOpt("use_cow_images", default=True, help="Whether images_type = default means qcow2 (true) or raw."),
    cfg.BoolOpt(
        "force_raw_images",
        default=True,
        help="Convert bases to raw. If false, a qcow2 image is kept as it is, and its overlays refer to that.",
    ),
    cfg.StrOpt(
        "preallocate_images",
        default="none",
        choices=["none", "space"],
        help="space: reserve the whole of a disk's file with fallocate.",
    ),
    cfg.Opt(
        "max_image_virtual_size",
        type=Bytes,
        default=2 * Ti,
        help="No image whose virtual size is larger (bytes) is fetched or unpacked.",
    ),
    cfg.Opt(
        "max_unpack_ratio",
        type=types.Integer(min=1),
        default=1000,
        help="No compressed image may unpack to more than this many times its size.",
    ),
    cfg.StrOpt(
        "default_ephemeral_format",
        help="The file system of ephemeral disks that name none. None: what the image's os_type has.",
    ),
    cfg.MultiStrOpt(
        "virt_mkfs",
        default=[],
        help="os_type=command: what makes the file system of an ephemeral disk that names none, with "
        "%(fs_label)s and %(target)s in it. default=command is for any other os_type.",
    ),
    cfg.Opt(
        "max_concurrent_disk_ops",
        type=types.Integer(min=0),
        default=0,
        deprecated_opts=_was("max_concurrent_disk_ops", "compute"),
        help="Disks that an engine makes at once, over all instances. 0: no limit.",
    ),
    cfg.BoolOpt(
        "durable_disks",
        default=True,
        help="Flush a new disk, its folder and its record before they are reported, so that a power cut "
        "loses nothing. False saves the last milliseconds.",
    ),
    cfg.StrOpt(
        "unprivileged_user",
        default="nobody",
        help="Where this process is root, qemu-img reads foreign images as this user.",
    ),
    cfg.StrOpt(
        "hypervisor_group",
        help="The group that bases and disks are given to, so that the hypervisor can read "
        "them. None: the group of this process.",
    ),
    cfg.Opt(
        "qemu_img_cpu_seconds",
        type=types.Integer(min=1),
        default=30,
        deprecated_opts=_was("images_cpu_time_limit", "libvirt"),
        help="CPU seconds of qemu-img info and check. A conversion has as much again for each GiB of virtual size.",
    ),
    cfg.Opt(
        "qemu_img_address_space",
        type=types.Integer(min=1),
        default=2,
        deprecated_opts=_was("images_address_space_limit", "libvirt"),
        help="GiB of address space of qemu-img info and check.",
    ),
    cfg.Opt(
        "qemu_img_convert_address_space",
        type=types.Integer(min=1),
        default=4,
        help="GiB of address space of any other qemu-img.",
    ),
    cfg.Opt(
        "qemu_img_stall_seconds",
        type=types.Integer(min=1),
        default=60,
        help="A qemu-img that neither computes, reads nor writes for so long is ended.",
    ),
    cfg.ListOpt(
        "vmdk_allowed_types",
        default=["streamOptimized", "monolithicSparse"],
        deprecated_opts=_was("vmdk_allowed_types", "compute"),
        help="The kinds of VMDK that are accepted; empty: none.",
    ),
)

SOURCES_OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt("default", default="folder", help="The source that a bare name is looked up in."),
    cfg.Opt(
        "num_retries",
        type=types.Integer(min=0),
        default=3,
        deprecated_opts=_was("num_retries", "glance"),
        help="How often a source that failed or broke off is tried again.",
    ),
    cfg.Opt(
        "retry_delay",
        type=types.Float(min=0),
        default=1.0,
        help="Seconds before the first retry; doubled for each further one, up to 30.",
    ),
)

LIBVIRT_OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt("connection_uri", default="qemu:///system", help="Where libvirt is."),
    cfg.StrOpt("virt_type", default="kvm", help="kvm, or qemu where there is no hardware for it."),
    cfg.ListOpt("hw_machine_type", default=[], help="architecture=machine: such as x86_64=q35."),
    cfg.StrOpt("cpu_mode", help="Such as host-model or host-passthrough. None: libvirt's default."),
    cfg.StrOpt("disk_prefix", help="Of the names of disks in the guest, instead of their bus's."),
    cfg.ListOpt(
        "disk_cachemodes",
        default=[],
        help="file=..., block=..., network=...: cache modes. None: none, and writeback for files where "
        "O_DIRECT does not work.",
    ),
    cfg.StrOpt("hw_disk_discard", help="What becomes of what a guest discards: ignore or unmap."),
    cfg.StrOpt(
        "snapshots_directory",
        default="$instances_path/snapshots",
        help="The folder of snapshots that are worked on; it is made with mode 0700.",
    ),
    cfg.Opt(
        "start_timeout",
        type=types.Float(min=0),
        default=60.0,
        help="Seconds that a new instance has to run.",
    ),
    cfg.Opt(
        "wait_soft_reboot_seconds",
        type=types.Float(min=0),
        default=120.0,
        help="Seconds that a guest has to shut itself down, before it is ended.",
    ),
)

COMPUTE_OPTS: Sequence[cfg.Opt] = (
    cfg.Opt(
        "max_disk_devices_to_attach",
        type=types.Integer(),
        default=-1,
        help="Disks that an instance may have; -1 is no limit.",
    ),
)

GROUPS: dict[str, Sequence[cfg.Opt]] = {
    "DEFAULT": DEFAULT_OPTS,
    "libvirt": LIBVIRT_OPTS,
    "compute": COMPUTE_OPTS,
    "image_cache": IMAGE_CACHE_OPTS,
    "sources": SOURCES_OPTS,
}


def register(conf: cfg.ConfigOpts, group: str, opts: Sequence[cfg.Opt]) -> None:
    """Make ``opts`` known in a section; an empty section is one too."""
    if group == "DEFAULT":
        conf.register_opts(opts)
        return
    conf.register_group(cfg.OptGroup(group))
    conf.register_opts(opts, group=group)


def load(files: Sequence[str | Path] | None = None) -> cfg.ConfigOpts:
    """A configuration of its own, from files and the environment.

    ``files`` None: those that oslo.config finds (``~/.imgbackend/imgbackend.conf``,
    ``/etc/imgbackend/imgbackend.conf``), if any.  Unknown sections and options are
    left alone: the file may be a nova.conf.

    :raises cfg.Error: if a file is missing or cannot be parsed; the caller translates.
    """
    conf = cfg.ConfigOpts()
    for group, opts in GROUPS.items():
        register(conf, group, opts)
    names: list[str] | None = None if files is None else [str(file) for file in files]
    conf([], project="imgbackend", default_config_files=names, default_config_dirs=None if files is None else [])
    return conf


def check(conf: cfg.ConfigOpts, group: str, opts: Sequence[cfg.Opt]) -> None:
    """Read every one of ``opts``, for a bad value shows when it is read.

    :raises ConfigError: naming the option, and what its value refers to.
    """
    for opt in opts:
        try:
            getattr(conf if group == "DEFAULT" else conf[group], opt.dest)
        except (cfg.Error, ValueError) as exc:
            told, inner = str(exc).replace("\n", " "), exc.__context__
            if isinstance(exc, cfg.NoSuchOptError) and isinstance(inner, cfg.NoSuchOptError | cfg.NoSuchGroupError):
                told = f"its value refers to another option, and there is {inner}"
            raise errors.ConfigError(f"[{group}] {opt.name}: {told}") from exc


def driver_opt(name: str) -> cfg.Opt:
    """The option of a backend's section that says which driver it has."""
    return cfg.StrOpt("driver", default=name, help="The driver of this backend; left out, it has the section's name.")


def backend_opts(name: str, driver: str, opts: Sequence[cfg.Opt]) -> list[cfg.Opt]:
    """The options of a backend's section: which driver it has, and that driver's own.

    Nova's names of them count only for the section that is named as its driver.
    """
    own = list(opts)
    if name != driver:
        own = [copy.copy(opt) for opt in opts]
        for opt in own:
            opt.deprecated_opts = []
    return [driver_opt(name), *own]


def override(conf: cfg.ConfigOpts, key: str, value: Any) -> bool:
    """Set ``option`` or ``section.option``; False where no such option is registered.

    :raises ConfigError: if the value is none that the option can have.
    """
    group, _, name = key.rpartition(".")
    try:
        conf.set_override(name, value, group=None if group in ("", "DEFAULT") else group)
    except (cfg.NoSuchOptError, cfg.NoSuchGroupError):
        return False
    except (ValueError, TypeError) as exc:
        raise errors.ConfigError(f"{key} = {value}: {exc}") from exc
    return True
