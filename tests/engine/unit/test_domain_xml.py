"""What is changed in the XML of a domain that goes to another host."""

from imgbackend.state import domain_xml
from imgbackend.types import Owner

XML = """<domain><metadata/><os><kernel>/a/web1/kernel</kernel></os><devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk><source file="/a/web1/disk"/></disk><disk><source file="/a/web10/disk"/></disk>
<disk><source protocol="rbd" name="a/web1_disk"/></disk>
<serial type="pty"><log file="/a/web1/console.log" append="on"/></serial></devices></domain>"""


def test_paths_below_the_former_folder_are_those_below_the_new_one_and_no_others_change() -> None:
    after = domain_xml.moved(XML, "/b/c/web1")
    for path in ("<kernel>/b/c/web1/kernel", '"/b/c/web1/disk"', '"/b/c/web1/console.log"'):
        assert path in after
    for path in ('"/a/web10/disk"', '"a/web1_disk"', "/usr/bin/qemu-system-x86_64"):
        assert path in after
    assert "/a/web1/" not in after


def test_xml_that_tells_no_folder_or_the_same_or_that_is_none_stays_as_it_is() -> None:
    for xml in ("", "<", "<domain/>", XML.replace(' file="/a/web1/console.log"', ""), XML.replace("<log", "<other")):
        assert domain_xml.moved(xml, "/b/web1") == xml
    assert domain_xml.moved(XML, "/a/web1") == XML


def test_owner_is_written_only_where_there_is_our_element() -> None:
    owner = Owner(host="b", folder="f" * 32)
    assert domain_xml.with_owner(XML, owner) == XML
