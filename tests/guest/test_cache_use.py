"""The cache asks a real libvirtd what its domains open, and removes nothing while that does not answer."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from imgbackend import Engine
from imgbackend.state import manifests
from labs.images import qemu_img
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.templates import Template

_XML = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type></os><devices><disk type='file' device='disk'>
<driver name='qemu' type='qcow2'/><source file='{path}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


def unused_base(engine: Engine, image: Path) -> Path:
    """A base of nine days ago on which no disk of an instance hangs."""
    template = Template(content=image, image_id="once", format="qcow2")
    engine.disk("brief").cache(template, template.name)
    engine.disk("brief").remove()
    path, then = engine.host.bases / template.name, time.time() - 9 * 86400
    for each in (path, manifests.path_of(path)):
        os.utime(each, (then, then))
    return path


def domain_on(guests: Guests, base: Path, folder: Path) -> str:
    """A domain of somebody else's, off, whose disk is an overlay on a base of ours."""
    folder.mkdir()
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(folder / "disk.qcow2"))
    (folder / "vm.xml").write_text(_XML.format(name=guests.name("alien"), path=folder / "disk.qcow2"))
    guests.lab.virsh("define", str(folder / "vm.xml"))
    return guests.name("alien")


def test_base_that_a_domain_of_libvirt_hangs_on_stays_until_it_is_undefined(guests: Guests, tmp_path: Path) -> None:
    engine = guests.engine()
    base = unused_base(engine, guests.image)
    name = domain_on(guests, base, tmp_path / "elsewhere")
    done = engine.cache.prune(dry_run=True)
    assert done.faults == []
    [outcome] = [each for each in done.outcomes if each.base.name == base.name]
    assert outcome.action == "kept"
    assert outcome.base.disks == (f"{name} ({tmp_path / 'elsewhere' / 'disk.qcow2'})",)
    guests.lab.virsh("undefine", name)
    assert [each.action for each in engine.cache.prune().outcomes] == ["removed"]


def test_killed_libvirtd_lets_no_base_go_and_its_successor_does(
    libvirt_own_daemon: Callable[..., Libvirt], make_guests: MakeGuests
) -> None:
    lab = libvirt_own_daemon()
    guests = make_guests(lab)
    engine = guests.engine()
    base = unused_base(engine, guests.image)
    assert engine.cache.prune(dry_run=True).faults == []
    lab.kill()
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert any("libvirt" in fault for fault in done.faults)
    assert base.exists()
    lab.start()
    assert [each.action for each in engine.cache.prune().outcomes] == ["removed"]
