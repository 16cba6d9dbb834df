"""Options that a caller sets: each is applied, also where it is known only later, or refused by its name."""

import pytest

from imgbackend import errors
from labs.engines import MakeEngine


@pytest.mark.parametrize(
    "key", ["nosuch", "DEFAULT.nosuch", "libvirt.nosuch", "compute.nosuch", "image_cache.nosuch", "fsat.volume_group"]
)
def test_option_that_nobody_can_have_is_refused_at_once(make_engine: MakeEngine, key: str) -> None:
    with pytest.raises(errors.ConfigError, match=f"there is no option {key}"):
        make_engine({key: "1"})


def test_option_that_no_source_has_is_refused_when_one_is_used(make_engine: MakeEngine) -> None:
    engine = make_engine({"sources.folder_path": "/", "sources.fallback_timeout": 1, "sources.nosuch": 1})
    with pytest.raises(errors.ConfigError, match=r"no option sources\.nosuch; there are: .*fallback_timeout"):
        engine.source("folder")


def test_option_of_another_source_waits_for_it(make_engine: MakeEngine) -> None:
    engine = make_engine({"sources.fallback_timeout": 7})
    engine.source("folder")
    engine.source("peer")
    assert engine.conf.sources.fallback_timeout == 7


def test_option_of_the_first_section_may_name_it(make_engine: MakeEngine) -> None:
    assert make_engine({"DEFAULT.images_type": "raw"}).backend().name == "raw"


def test_option_that_a_driver_does_not_have_is_refused_when_it_is_used(make_engine: MakeEngine) -> None:
    engine = make_engine({"fast.driver": "qcow2", "fast.nosuch": "1"})
    with pytest.raises(errors.ConfigError, match=r"no option fast\.nosuch"):
        engine.backend("fast")
