"""The options of the section ``image_cache``: Nova's, under its names and with its defaults, and ours."""

from collections.abc import Sequence
from typing import Final

from oslo_config import cfg, types

_BYTES: Final = types.Integer(min=0)


def _was(name: str, group: str) -> list[cfg.DeprecatedOpt]:
    return [cfg.DeprecatedOpt(name, group=group)]


IMAGE_CACHE_OPTS: Sequence[cfg.Opt] = (
    cfg.StrOpt(
        "subdirectory_name",
        default="_base",
        deprecated_opts=_was("image_cache_subdirectory_name", "DEFAULT"),
        help="The folder of the bases, in instances_path.",
    ),
    cfg.BoolOpt(
        "remove_unused_base_images",
        default=True,
        deprecated_opts=_was("remove_unused_base_images", "DEFAULT"),
        help="Whether bases that nothing uses are removed when they are old enough.",
    ),
    cfg.IntOpt(
        "remove_unused_original_minimum_age_seconds",
        default=86400,
        deprecated_opts=_was("remove_unused_original_minimum_age_seconds", "DEFAULT"),
        help="How long a base has to be unused before it is removed.",
    ),
    cfg.IntOpt(
        "remove_unused_resized_minimum_age_seconds",
        default=3600,
        deprecated_opts=_was("remove_unused_resized_minimum_age_seconds", "libvirt"),
        help="The same of bases that an old Nova enlarged, <name>_<GiB>.",
    ),
    cfg.Opt(
        "lease_seconds",
        type=types.Integer(min=0),
        default=3600,
        help="For so long after its last use nothing removes a base, whatever the other options say: "
        "somebody may be about to make a disk of it.",
    ),
    cfg.Opt(
        "max_size",
        type=_BYTES,
        help="Bytes that the bases in the folder may take. Where they take more, or would with one that is about to be "
        "fetched, the least recently used go, however young, but for those that are used, pinned or leased; where "
        "that is not enough, nothing is fetched. None: no limit.",
    ),
    cfg.Opt(
        "min_free",
        type=_BYTES,
        help="Bytes that are to be free on the folder's file system; where less is, the same. None: no limit.",
    ),
    cfg.Opt(
        "store_max_size",
        type=types.Dict(_BYTES, bounds=False),
        default={},
        help="Bytes that the bases in the store of a backend may take, such as lvm:107374182400,rbd:1099511627776. "
        "Where they take more, a pass removes the least recently used, as with max_size. Others: no limit.",
    ),
    cfg.Opt(
        "store_min_free",
        type=types.Dict(_BYTES, bounds=False),
        default={},
        help="Bytes that are to be free in the store of a backend, such as lvm:21474836480; where less is, the same.",
    ),
    cfg.Opt(
        "high_watermark",
        type=types.Integer(min=1, max=100),
        default=100,
        help="How much of max_size, and of what min_free leaves of the file system, may be used before a pass "
        "makes room, in percent; the same of those of stores. Without any of them it has no meaning; min_free = 0 is "
        "the whole file system.",
    ),
    cfg.Opt(
        "low_watermark",
        type=types.Integer(min=0, max=100),
        default=100,
        help="Once a pass makes room, it does so until no more than this is used, in percent of the same; "
        "what is above high_watermark counts as that.",
    ),
    cfg.Opt(
        "remove_gone_minimum_age_seconds",
        type=types.Integer(min=0),
        help="How long a base has to be unused whose image is gone from its source, where the sources were asked. "
        "None: as long as others.",
    ),
    cfg.Opt(
        "manager_interval",
        type=types.Integer(min=-1),
        default=2400,
        deprecated_opts=_was("image_cache_manager_interval", "DEFAULT"),
        help="Seconds between the beginnings of two passes of cache run. 0: a minute. -1: no pass is made.",
    ),
    cfg.Opt(
        "verify_per_pass",
        type=types.Integer(min=0),
        default=0,
        help="Bases that cache run compares with their digests after each of its passes, those for which that is "
        "longest ago first. 0: none.",
    ),
    cfg.Opt(
        "verify_rate",
        type=types.Integer(min=1),
        default=50 << 20,
        help="Bytes that it reads for that in a second.",
    ),
    cfg.Opt(
        "precache_concurrency",
        type=types.Integer(min=1),
        default=1,
        help="Images that cache prefetch fetches at once on this host. (Nova's option of this name says on how many "
        "hosts at once.)",
    ),
    cfg.Opt(
        "precache_jitter",
        type=types.Float(min=0, max=86400),
        default=0.0,
        help="Seconds that cache prefetch waits at most, at random, before each image, so that many hosts that are "
        "told to fetch it do not ask its source at the same moment.",
    ),
    cfg.StrOpt(
        "metrics_file",
        help="Where each pass writes metrics for Prometheus, such as a .prom in the folder of node_exporter's "
        "textfile collector. None: nothing is counted.",
    ),
)
