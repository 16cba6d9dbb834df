"""The cache's passes over the bases in a thin pool."""

from imgbackend import Engine
from labs.templates import Template


def test_base_stays_while_a_disk_hangs_on_it_or_it_is_pinned_and_goes_then(thin: Engine, raw_image: Template) -> None:
    def acted() -> list[tuple[str, str]]:
        done = thin.cache.prune()
        assert done.faults == []
        return [(each.base.where, each.action) for each in done.outcomes]

    for option in ("remove_unused_original_minimum_age_seconds", "lease_seconds"):
        thin.conf.set_override(option, 0, "image_cache")
    thin.disk("vm").cache(raw_image, raw_image.name)
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
