"""The engine's options as values."""

import os
from pathlib import Path

from oslo_config import cfg

from imgbackend import errors
from imgbackend.system.host import Settings
from imgbackend.types import RELEASED, Gi


def settings_of(conf: cfg.ConfigOpts) -> Settings:
    """What the configuration states.

    :raises ConfigError: if an option cannot have its value.
    """
    bases = conf.image_cache.subdirectory_name
    if not bases or "/" in bases or bases in {".", "..", "locks", "snapshots"}:
        raise errors.ConfigError(f"[image_cache] subdirectory_name: {bases!r} is no name of a folder in instances_path")
    if not conf.host or not conf.host.isprintable() or conf.host == RELEASED.host:
        raise errors.ConfigError(f"host: {conf.host!r} is no name of a host; give one, or leave the option out")
    if not conf.instances_path:
        raise errors.ConfigError("instances_path is empty; name a folder, or leave the option out")
    return Settings(
        instances=Path(os.path.abspath(conf.instances_path)),
        bases=bases,
        durable=conf.durable_disks,
        force_raw=conf.force_raw_images,
        preallocate=conf.preallocate_images == "space",
        unprivileged_user=conf.unprivileged_user,
        group=conf.hypervisor_group,
        max_virtual_size=conf.max_image_virtual_size,
        vmdk_types=tuple(conf.vmdk_allowed_types),
        cpu_seconds=conf.qemu_img_cpu_seconds,
        address_space=conf.qemu_img_address_space * Gi,
        convert_address_space=conf.qemu_img_convert_address_space * Gi,
        stall_seconds=conf.qemu_img_stall_seconds,
        max_bases=conf.image_cache.max_size,
        min_free=conf.image_cache.min_free or 0,
        hostname=conf.host,
        counted=conf.image_cache.metrics_file is not None,
    )
