"""How a volume group is configured; no command of lvm2's is run."""

from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.driver.abilities import abilities
from imgbackend.types import BlockSource, DiskId
from labs.engines import MakeEngine


def _engine(tmp_path: Path, text: str) -> Engine:
    path = tmp_path / "nova.conf"
    path.write_text(text)
    return Engine.from_config([path], {"instances_path": str(tmp_path / "instances")})


def test_abilities_depend_on_the_pool(make_engine: MakeEngine) -> None:
    engine = make_engine({"thin.driver": "lvm", "thin.thin_pool": "pool", "thick.driver": "lvm"})
    thin, thick = engine.backend_class("thin"), engine.backend_class("thick")
    assert {*abilities(thin), *abilities(thin.disk_type)} >= {"HoldsBases", "Snapshottable", "Importable"}
    assert not {"HoldsBases", "Snapshottable"} & {*abilities(thick), *abilities(thick.disk_type)}


def test_options_of_nova_are_understood(tmp_path: Path) -> None:
    text = "[libvirt]\nimages_type = lvm\nimages_volume_group = vms\nvolume_clear = shred\nvolume_clear_size = 7\n"
    with _engine(tmp_path, text) as engine:
        assert engine.conf.images_type == "lvm"
        engine.backend_class("lvm")
        own: Any = engine.conf.lvm
        assert (own.volume_group, own.volume_clear, own.volume_clear_size) == ("vms", "shred", 7)
        assert own.thin_pool is None


def test_options_of_nova_are_not_for_a_second_backend(tmp_path: Path) -> None:
    with _engine(tmp_path, "[libvirt]\nimages_volume_group = vms\n[fast]\ndriver = lvm\n") as engine:
        engine.backend_class("fast")
        assert engine.conf.fast.volume_group is None


def test_group_has_to_be_named(make_engine: MakeEngine) -> None:
    with pytest.raises(errors.ConfigError, match=r"\[lvm\] volume_group is not set"):
        make_engine({"images_type": "lvm"}).backend()


@pytest.mark.parametrize("own", [{"lvm.volume_clear": "often"}, {"lvm.volume_clear_size": -1}])
def test_values_that_cannot_be_are_told(make_engine: MakeEngine, own: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigError, match="volume_clear"):
        make_engine({"images_type": "lvm", "lvm.volume_group": "vms", **own}).backend()


@pytest.mark.parametrize("own", [{"lvm.volume_group": "-v"}, {"lvm.volume_group": "v/../w"}])
def test_names_that_lvm2_does_not_take_are_told_before_anything_is_run(
    make_engine: MakeEngine, own: dict[str, Any]
) -> None:
    with pytest.raises(errors.ConfigError, match="not a name for a volume group"):
        make_engine({"images_type": "lvm", **own}).backend()


def test_disk_is_where_nova_has_it(make_engine: MakeEngine) -> None:
    engine = make_engine({"lvm.volume_group": "vms"})
    kind = engine.backend_class("lvm")
    disk = kind("lvm", engine.conf.lvm, engine.host).disk(DiskId(instance="4f2-a", name="disk.eph0"))
    assert disk.source() == BlockSource(path=Path("/dev/vms/4f2-a_disk.eph0"), format="raw", io_native=True)
