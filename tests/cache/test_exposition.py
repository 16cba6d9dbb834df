"""The metrics as Prometheus reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cache.conftest import DAY, age
from imgbackend import Engine, errors
from imgbackend.cache import prometheus
from labs.engines import MakeEngine
from labs.templates import Template

Sample = tuple[str, tuple[tuple[str, str], ...]]


def samples(path: Path) -> dict[Sample, float]:
    """By name and labels, through the library's own parser."""
    return {
        (sample.name.removeprefix("imgbackend_cache_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


@pytest.fixture
def counted(make_engine: MakeEngine, tmp_path: Path) -> Callable[[], Engine]:
    told = {"images_type": "qcow2", "image_cache.metrics_file": str(tmp_path / "cache.prom")}
    return lambda: make_engine(told)


def test_pass_writes_what_all_processes_counted_and_what_it_saw(
    counted: Callable[[], Engine], raw_image: Template, qcow2_image: Template, tmp_path: Path
) -> None:
    for engine, image, name in (
        (counted(), raw_image, "web1"),
        (counted(), raw_image, "web2"),
        (counted(), qcow2_image, "web3"),
    ):
        engine.disk(name).cache(image, image.name)
    engine = counted()
    engine.disk("web3").remove()
    age(engine.host.bases / qcow2_image.name, 9 * DAY)
    engine.host.metrics.record_verification_failure()
    assert engine.cache.prune().faults == []
    found = samples(tmp_path / "cache.prom")
    for name, value in {"hits": 1, "misses": 2, "fetches": 2, "verification_failures": 1}.items():
        assert found[f"{name}_total", ()] == value
    assert found["evictions_total", (("cause", "unused"),)] == 1
    assert found["evictions_total", (("cause", "room"),)] == 0
    assert found["fetched_bytes_total", ()] == sum(each.content.stat().st_size for each in (raw_image, qcow2_image))
    assert found["bases", (("store", "local"),)] == 1
    assert found["unused_bytes", (("store", "local"),)] == 0
    assert found["bytes", (("store", "local"),)] > 0
    assert found["hosts", ()] == 1
    assert found["last_pass_faults", ()] == 0
    assert found["last_pass_timestamp_seconds", ()] > 0
    for phase in ("create", "fetch", "scan", "remove"):
        assert found["phase_seconds_count", (("phase", phase),)] >= 1
        assert found["phase_seconds_sum", (("phase", phase),)] > 0


def test_cache_without_anything_has_zeroes(counted: Callable[[], Engine], tmp_path: Path) -> None:
    assert counted().cache.prune().faults == []
    found = samples(tmp_path / "cache.prom")
    assert found["hits_total", ()] == found["bases", (("store", "local"),)] == 0


def test_bases_of_a_store_are_told_apart(make_able: Callable[..., Engine], raw_image: Template, tmp_path: Path) -> None:
    engine = make_able({"image_cache.metrics_file": str(tmp_path / "cache.prom")})
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.cache.prune()
    found = samples(tmp_path / "cache.prom")
    assert (found["bases", (("store", "able"),)], found["bases", (("store", "local"),)]) == (1, 0)
    assert found["phase_seconds_count", (("phase", "import"),)] == 1


def test_dry_run_writes_nothing(counted: Callable[[], Engine], tmp_path: Path) -> None:
    counted().cache.prune(dry_run=True)
    assert not (tmp_path / "cache.prom").exists()


def test_file_that_cannot_be_written_is_told_and_keeps_what_was_there(
    counted: Callable[[], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = counted()
    engine.cache.prune()
    before = (tmp_path / "cache.prom").read_text()

    def full(*_args: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prometheus, "write", full)
    monkeypatch.setattr("imgbackend.cache.sharing_hosts.SharingHosts.register", lambda _self, _began: None)
    [fault] = engine.cache.prune().faults
    assert "the metrics cannot be written" in fault
    assert "\n" not in fault
    assert (tmp_path / "cache.prom").read_text() == before


def test_folder_that_is_not_there_is_told(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine({"image_cache.metrics_file": str(tmp_path / "none" / "cache.prom")})
    [fault] = engine.cache.prune().faults
    assert str(tmp_path / "none") in fault


def test_failed_creation_is_no_hit_and_no_miss(counted: Callable[[], Engine], raw_image: Template) -> None:
    engine = counted()
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").cache(raw_image, raw_image.name, 512)
    assert {"hits", "misses"}.isdisjoint(engine.host.metrics.counts())
