"""Domains that libvirt knows count as users; where it cannot be asked, nothing is removed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cache.conftest import DAY, age
from imgbackend import Engine, errors
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.types import Mi
from labs.engines import MakeEngine
from labs.images import qemu_img
from labs.templates import Template

pytestmark = pytest.mark.slow

_DISK = "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>{more}</disk>"

Define = Callable[..., None]


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """One with a libvirt."""
    return make_engine({"images_type": "qcow2", "libvirt.connection_uri": "qemu:///system"})


@pytest.fixture
def base(engine: Engine, raw_image: Template) -> Path:
    """On which no disk of an instance hangs, and old enough to go."""
    engine.disk("brief").cache(raw_image, raw_image.name)
    engine.disk("brief").remove()
    path = engine.host.bases / raw_image.name
    age(path, 9 * DAY)
    return path


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Define:
    """Has libvirt know domains, by their names, with these devices and boot files."""

    def make(devices: str = "", boot: str = "", *, name: str = "alien") -> None:
        xml = f"<domain><name>{name}</name><os>{boot}</os><devices>{devices}</devices></domain>"
        monkeypatch.setattr(Hypervisor, "definitions", lambda _self: [(name, xml)])

    make()
    return make


def disk(path: Path, format: str = "qcow2", more: str = "") -> str:
    return _DISK.format(path=path, format=format, more=more)


def overlay(path: Path, backing: Path, format: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(backing), "-F", format, str(path))
    return path


def kept(engine: Engine) -> bool:
    done = engine.cache.prune(dry_run=True)
    assert done.faults == []
    [outcome] = done.outcomes
    return outcome.action == "kept"


def test_base_that_no_domain_uses_goes(engine: Engine, base: Path, define: Define) -> None:
    assert not kept(engine)
    assert [each.action for each in engine.cache.prune().outcomes] == ["removed"]


def test_base_that_a_domain_opens_itself_stays(engine: Engine, base: Path, define: Define) -> None:
    define(disk(base, "raw"))
    assert kept(engine)
    [listed] = engine.cache.bases().bases
    assert listed.disks == (f"alien ({base})",)


def test_base_that_a_domain_s_disk_elsewhere_hangs_on_stays(
    engine: Engine, base: Path, define: Define, tmp_path: Path
) -> None:
    """Its header tells: of a domain that is off libvirt names the first file only."""
    define(disk(overlay(tmp_path / "elsewhere" / "vm.qcow2", base, "raw")))
    assert kept(engine)


def test_base_at_the_end_of_a_domain_s_chain_stays(engine: Engine, base: Path, define: Define, tmp_path: Path) -> None:
    middle = overlay(tmp_path / "elsewhere" / "middle.qcow2", base, "raw")
    define(disk(overlay(tmp_path / "elsewhere" / "top.qcow2", middle, "qcow2")))
    assert kept(engine)


@pytest.mark.parametrize("element", ["backingStore", "mirror"])
def test_base_that_libvirt_names_below_a_disk_stays(
    engine: Engine, base: Path, define: Define, tmp_path: Path, element: str
) -> None:
    more = f"<{element} type='file'><format type='raw'/><source file='{base}'/></{element}>"
    define(disk(tmp_path / "gone.qcow2", more=more))
    assert kept(engine)


@pytest.mark.parametrize("tag", ["kernel", "initrd"])
def test_base_that_a_domain_boots_from_stays(engine: Engine, base: Path, define: Define, tag: str) -> None:
    define(boot=f"<{tag}>{base}</{tag}>")
    assert kept(engine)


def test_file_that_a_domain_has_as_raw_is_not_read(engine: Engine, base: Path, define: Define, tmp_path: Path) -> None:
    """Its guest may write a header of a qcow2 there."""
    define(disk(overlay(tmp_path / "elsewhere" / "forged.raw", base, "raw"), "raw"))
    assert not kept(engine)


def test_domain_s_disk_that_is_gone_or_none_stops_nothing(
    engine: Engine, base: Path, define: Define, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("no qcow2")
    define(disk(tmp_path / "gone.qcow2") + disk(tmp_path / "text") + "<disk type='block'><source dev='/dev/x'/></disk>")
    assert not kept(engine)


def test_domain_s_disk_that_cannot_be_read_lets_no_base_go(
    engine: Engine, base: Path, define: Define, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    define(disk(tmp_path / "loop"))
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert any("loop" in fault for fault in done.faults)


def test_disk_of_an_instance_counts_once(
    engine: Engine, base: Path, define: Define, raw_image: Template, instances: Path
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    define(disk(instances / "web1" / "disk"), name="web1")
    [listed] = engine.cache.bases().bases
    assert listed.disks == ("web1/disk",)


def test_domain_that_is_defined_during_a_pass_keeps_its_base(
    engine: Engine, base: Path, define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each removal looks again, at what libvirt says too."""
    real, asked = Hypervisor.definitions, []
    xml = f"<domain><devices>{disk(base, 'raw')}</devices></domain>"

    def later(self: Hypervisor) -> list[tuple[str, str]]:
        asked.append(self)
        return real(self) if len(asked) == 1 else [("late", xml)]

    monkeypatch.setattr(Hypervisor, "definitions", later)
    assert [each.action for each in engine.cache.prune().outcomes] == ["kept"]
    assert base.exists()


def test_nothing_is_removed_where_libvirt_does_not_answer(
    engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_self: Hypervisor) -> list[tuple[str, str]]:
        raise errors.HypervisorUnavailable("cannot reach libvirt at qemu:///system")

    monkeypatch.setattr(Hypervisor, "definitions", away)
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert any("cannot reach libvirt" in fault for fault in done.faults)
    assert base.exists()


def test_libvirt_that_stops_answering_during_a_pass_stops_the_removals(
    engine: Engine, base: Path, define: Define, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Hypervisor.definitions, []

    def later(self: Hypervisor) -> list[tuple[str, str]]:
        asked.append(self)
        if len(asked) > 1:
            raise errors.HypervisorUnavailable("libvirtd does not answer")
        return real(self)

    monkeypatch.setattr(Hypervisor, "definitions", later)
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert any("does not answer" in fault for fault in done.faults)


def test_libvirt_is_asked_where_it_spawned_instances_though_nobody_names_it(
    make_engine: MakeEngine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where none did: a host may have no libvirt at all."""
    asked: list[str] = []

    def none(self: Hypervisor) -> list[tuple[str, str]]:
        asked.append(self.uri)
        return []

    monkeypatch.setattr(Hypervisor, "definitions", none)
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.cache.prune()
    assert asked == []
    (instances / "web1" / "libvirt.xml").write_text("<domain/>")
    engine.cache.prune()
    assert asked == ["qemu:///system"]


def test_local_copy_that_a_domain_opens_stays_when_a_store_imports_it(
    make_able: Callable[..., Engine], raw_image: Template, define: Define
) -> None:
    engine = make_able({"libvirt.connection_uri": "qemu:///system"})
    engine.disk("web1", images_type="qcow2").cache(raw_image, raw_image.name)
    engine.disk("web1").remove()
    path = engine.host.bases / raw_image.name
    define(disk(path, "raw"))
    engine.disk("web2").cache(raw_image, raw_image.name)
    assert path.exists()
    define()
    engine.disk("web2").remove()
    engine.backend("able").remove_base(raw_image.name)  # type: ignore[attr-defined]  # its store holds bases
    engine.disk("web3").cache(raw_image, raw_image.name)
    assert not path.exists()
