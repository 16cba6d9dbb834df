"""The cache's passes over the bases in a thin pool."""

from imgbackend.types import Mi
from labs.engines import MakeEngine
from labs.lvm import Group
from labs.templates import Template
from labs.volumes import emptied, options

_AT_ONCE = {"image_cache.remove_unused_original_minimum_age_seconds": 0, "image_cache.lease_seconds": 0}


def test_base_stays_while_a_disk_hangs_on_it_or_it_is_pinned_and_goes_then(
    lvm_group: Group, make_engine: MakeEngine, raw_image: Template
) -> None:
    thin = make_engine({"images_type": "lvm", **options(lvm_group), **_AT_ONCE})

    def acted() -> list[tuple[str, str]]:
        done = thin.cache.prune()
        assert done.faults == []
        return [(each.base.where, each.action) for each in done.outcomes]

    thin.disk("vm").cache(raw_image, raw_image.name, 64 * Mi)
    [base] = thin.cache.bases().bases
    assert (base.store, base.name, base.users, base.image_id) == ("lvm", raw_image.name, 1, raw_image.image_id)
    assert acted() == [("lvm", "kept")]
    thin.disk("vm").remove()
    thin.cache.pin(raw_image.name, "lvm")
    assert acted() == [("lvm", "kept")]
    thin.cache.unpin(raw_image.name, "lvm")
    assert acted() == [("lvm", "removed")]
    assert thin.cache.bases().bases == []
    assert thin.disk("vm").cache(raw_image, raw_image.name).fetched
    emptied(thin)
