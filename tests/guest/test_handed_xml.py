"""The XML that came with disks from a store: what imgbackend writes is taken, and nothing else."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from imgbackend import errors
from imgbackend.guest import handed_xml
from imgbackend.state import domain_xml
from imgbackend.types import DiskSource, FileSource, NetworkSource, Owner

OWNER = Owner(host="b", folder="f" * 32)
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.xml"))
RBD = """<domain type="kvm"><name>web1</name><uuid>6d9f7c9e-7b1b-4b4e-9d4e-0b9d2c6f1a11</uuid>
<metadata><i:instance xmlns:i="urn:imgbackend:instance:1" host="a" folder="0">web1</i:instance>
</metadata><os><type arch="x86_64" machine="q35">hvm</type></os><devices>
<disk type="network" device="disk"><driver name="qemu" type="raw"/>
<source protocol="rbd" name="vms/web1_disk"><host name="10.0.0.1" port="6789"/><config file="/a/ceph.conf"/></source>
<auth username="cinder"><secret type="ceph" uuid="11111111-1111-4111-8111-111111111111"/></auth>
<target dev="vda" bus="virtio"/></disk>
<interface type="bridge"><mac address="52:54:00:00:00:01"/><source bridge="br0"/></interface>
<serial type="pty"><log file="/a/web1/console.log" append="on"/><target port="0"/></serial>
<rng model="virtio"><backend model="random">/dev/urandom</backend></rng></devices></domain>"""
DISK = NetworkSource(
    protocol="rbd",
    name="vms/web1_disk",
    hosts=(("10.0.0.2", 3300),),
    user="nova",
    secret_uuid="22222222-2222-4222-8222-222222222222",  # noqa: S106 - the name of a secret, and none
    conf="/b/ceph.conf",
)


def adopted(xml: str) -> str:
    return handed_xml.adopted(xml, "web1", "/b/web1", [DISK], OWNER)


def test_disks_are_opened_as_this_host_knows_them_and_paths_are_its_own() -> None:
    after = adopted(RBD)
    for here in ("10.0.0.2", "3300", "nova", DISK.secret_uuid or "", "/b/ceph.conf", "/b/web1/console.log"):
        assert here in after
    for there in ("10.0.0.1", "6789", "cinder", "11111111", "/a/"):
        assert there not in after
    assert domain_xml.owner_in(after) == OWNER
    assert domain_xml.names_disk(after, DISK)
    assert adopted(after) == after


SOURCE = '<source protocol="rbd" name="vms/web1_disk">'
EVIL = {
    "another name": ("<name>web1<", "<name>web2<"),
    "a second name": ("<name>web1<", "<name>web1</name><name>web2<"),
    "a disk that is not its own": ("vms/web1_disk", "vms/web2_disk"),
    "a second source": (SOURCE, f'<source protocol="rbd" name="vms/web2_disk"/>{SOURCE}'),
    "a source with two places": (SOURCE, SOURCE[:-1] + ' file="/etc/shadow">'),
    "a file": ('protocol="rbd" name="vms/web1_disk"', 'file="/etc/shadow"'),
    "a disk without a source": (SOURCE, '<other protocol="rbd">'),
    "a lun": ('device="disk"', 'device="lun"'),
    "a device": ("<rng model", '<hostdev mode="subsystem"/><rng model'),
    "an emulator": ("<devices>", "<devices><emulator>/bin/sh</emulator>"),
    "a folder": ("<devices>", '<devices><filesystem type="mount"><source dir="/"/></filesystem>'),
    "words for qemu": ("</devices>", '</devices><q:commandline xmlns:q="http://libvirt.org/schemas/domain/qemu/1.0"/>'),
    "a kernel": ("<os>", "<os><kernel>/etc/shadow</kernel>"),
    "a kernel without a slash": ("<os>", "<os><kernel>etc/shadow</kernel>"),
    "an initrd": ("<os>", "<os><initrd>etc/shadow</initrd>"),
    "a way out": ("<os>", "<os><kernel>/a/web1/../../etc/shadow</kernel>"),
    "a second serial": ("<rng model", '<serial type="pty"><log file="etc/cron.d/x"/></serial><rng model'),
    "a serial to a file": ('<serial type="pty">', '<serial type="file"><source path="/etc/cron.d/x"/>'),
    "a direct interface": ('<interface type="bridge">', '<interface type="direct">'),
    "another backend of an interface": (
        "<interface",
        '<interface type="user"><backend logFile="x"/></interface><interface',
    ),
    "entropy of a file": ("/dev/urandom", "/etc/shadow"),
    "entropy of a relative file": ("/dev/urandom", "etc/shadow"),
    "entropy of a socket": ('<backend model="random">', '<backend model="egd" type="tcp">'),
    "an entity": ("<domain ", '<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/shadow">]><domain '),
    "half an XML": ("</domain>", ""),
    "half a letter": ("</domain>", "\udc80</domain>"),
    "very deep": ("<devices>", "<devices>" + "<disk>" * 5000 + "</disk>" * 5000),
}


def test_format_of_a_disk_is_what_this_host_knows_and_the_log_is_its_own() -> None:
    """A guest may have written the header of another format to its raw disk."""
    told = RBD.replace('type="raw"', 'type="qcow2"').replace("/a/web1/console.log", "/etc/cron.d/x")
    assert adopted(told) == adopted(RBD)
    assert 'type="qcow2"' not in adopted(told)


@pytest.mark.parametrize("kind", EVIL)
def test_what_imgbackend_does_not_write_for_this_instance_is_refused(kind: str) -> None:
    before, after = EVIL[kind]
    assert before in RBD
    with pytest.raises(errors.DiskError, match="the disks of web1 is not what imgbackend writes"):
        adopted(RBD.replace(before, after, 1))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_all_that_imgbackend_writes_is_taken(path: Path) -> None:
    xml = path.read_text()
    found = re.search("<name>(.*)</name>", xml)
    log = re.search('<log file="(.*)/console.log"', xml)
    assert found is not None
    assert log is not None
    disks: list[DiskSource] = [
        FileSource(path=Path(each), format="raw") for each in re.findall('<source (?:file|dev)="([^"]*)"', xml)
    ]
    named = re.findall('<source protocol="rbd" name="([^"]*)"', xml)
    disks += [NetworkSource(protocol="rbd", name=name) for name in named]
    for kernel in re.findall("<(?:kernel|initrd)>([^<]*)<", xml):
        disks.append(FileSource(path=Path(kernel), format="raw"))
    after = handed_xml.adopted(xml, found[1], log[1], disks, OWNER)
    assert domain_xml.owner_in(after) == OWNER
    assert _tags(after) == _tags(xml)


def _tags(xml: str) -> set[str]:
    """All but those that tell how a cluster is reached, which the host of this test does not know."""
    return {each.tag for each in ET.fromstring(xml).iter()} - {"auth", "secret", "host", "config"}  # noqa: S314 - a file of the tests
