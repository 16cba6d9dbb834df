"""What doctor tells of a volume group and a thin pool."""

import dataclasses
from typing import Final

import pytest

from imgbackend.types import Gi, Verdict
from imgbackend_lvm import checks
from imgbackend_lvm.lvm2_reports import LogicalVolume, VolumeGroup

_GROUP: Final = VolumeGroup(
    vg_name="vms", vg_uuid="g", vg_size=100 * Gi, vg_free=30 * Gi, vg_extent_size=4 << 20, vg_tags=()
)
_POOL: Final = LogicalVolume(
    vg_name="vms",
    vg_uuid="g",
    lv_name="thin",
    lv_uuid="p",
    lv_path="",
    lv_size=50 * Gi,
    lv_attr="twi-aotz--",
    lv_tags=(),
    lv_time=0,
    origin=None,
    pool_lv=None,
    data_percent=10.0,
    metadata_percent=10.0,
    lv_metadata_size=Gi,
    chunk_size=64 << 10,
    lv_when_full="queue",
)
_DISK: Final = dataclasses.replace(_POOL, lv_name="web1_disk", lv_uuid="d", pool_lv="thin", lv_attr="Vwi-aotz--")
_EXTENDED: Final = {
    "monitoring": "1",
    "thin_pool_autoextend_threshold": "80",
    "thin_pool_autoextend_percent": "20",
}


@pytest.mark.parametrize(
    ("percent", "verdict"), [(0.0, "ok"), (79.9, "ok"), (80.0, "warning"), (95.0, "error"), (100.0, "error")]
)
def test_a_room_is_scarce_before_it_is_full(percent: float, verdict: Verdict) -> None:
    found = checks.used("metadata", percent, Gi, "lvextend --poolmetadatasize +256M vms/thin")
    assert (found.check, found.verdict) == ("metadata", verdict)
    assert found.advice.startswith("lvextend --poolmetadatasize") == (verdict != "ok")


def test_a_pool_that_is_not_active_is_not_taken_for_empty() -> None:
    assert checks.used("data", None, Gi, "").verdict == "warning"


def test_a_pool_that_does_not_zero_is_an_error() -> None:
    assert checks.zeroing(_POOL, "vms/thin").verdict == "ok"
    found = checks.zeroing(dataclasses.replace(_POOL, lv_attr="twi-aot---"), "vms/thin")
    assert (found.verdict, found.advice.split(";")[0]) == ("error", "lvchange --zero y vms/thin")


@pytest.mark.parametrize(
    ("settings", "watched", "free", "verdict", "says"),
    [
        (_EXTENDED, True, 30 * Gi, "ok", "by 20 % when 80 % are in use"),
        (_EXTENDED, True, 9 * Gi, "warning", "less than one step"),
        (_EXTENDED, False, 30 * Gi, "warning", "dmeventd does not run"),
        ({**_EXTENDED, "monitoring": "0"}, True, 30 * Gi, "warning", "dmeventd does not run"),
        ({**_EXTENDED, "thin_pool_autoextend_threshold": "100"}, True, 30 * Gi, "warning", "wait for a minute"),
        ({}, True, 30 * Gi, "warning", "does not tell"),
    ],
)
def test_a_pool_that_nobody_extends_is_a_warning(
    settings: dict[str, str], watched: bool, free: int, verdict: Verdict, says: str
) -> None:
    found = checks.growth(dataclasses.replace(_GROUP, vg_free=free), _POOL, settings, watched=watched)
    assert found.verdict == verdict
    assert says in found.found
    assert bool(found.advice) == (verdict != "ok")


def test_a_pool_that_fails_at_once_is_told_so() -> None:
    pool = dataclasses.replace(_POOL, lv_when_full="error")
    found = checks.growth(_GROUP, pool, {**_EXTENDED, "thin_pool_autoextend_threshold": "100"}, watched=True)
    assert "fail at once" in found.found


def test_what_is_promised_is_summed_without_bases() -> None:
    base = dataclasses.replace(_DISK, lv_uuid="b", lv_name="base", lv_attr="Vri-a-tz--")
    elsewhere = dataclasses.replace(_DISK, lv_uuid="e", pool_lv="other")
    found = {each.check: each for each in checks.of_pool(_GROUP, _POOL, [_POOL, _DISK, base, elsewhere])}
    assert found["promised"].found.startswith("50.0 GiB")
    assert {each.verdict for each in found.values()} == {"ok"}


@pytest.mark.parametrize("letter", ["F", "D", "M"])
def test_a_pool_that_is_ill_is_an_error_with_what_to_do(letter: str) -> None:
    pool = dataclasses.replace(_POOL, lv_attr=f"twi-aotz{letter}-")
    found = next(checks.of_pool(_GROUP, pool, [pool]))
    assert found.verdict == "error"
    assert "vms/thin" in found.advice


def test_a_group_without_room_is_a_warning() -> None:
    assert checks.thick_room(_GROUP).verdict == "ok"
    assert checks.thick_room(dataclasses.replace(_GROUP, vg_free=19 * Gi)).verdict == "warning"


def test_missing_tools_for_repair_are_a_warning() -> None:
    found = checks.repair({"thin_check_executable": "/nowhere/thin_check"})
    assert (found.verdict, found.advice) == ("warning", "install thin-provisioning-tools")
