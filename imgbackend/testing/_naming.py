"""Names: every one that is allowed works, and none is taken for another."""

import dataclasses

import pytest

from imgbackend.system.host import Host
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import DiskId

_DISKS = (
    "disk",
    "disk.local",
    "disk.swap",
    "disk.config",
    "disk.eph0",
    "disk.eph12",
    "disk.rescue",
    "disk.local.rescue",
    "disk.eph0.a-long-suffix",
)


class NamingTests(Topic):
    """A driver that joins names with a character that they may contain mixes disks up."""

    def test_every_name_of_a_disk(self, trial: Trial) -> None:
        """Side by side in one instance."""
        image = trial.image(size=trial.small)
        disks = [trial.made(image, name=name) for name in _DISKS]
        assert trial.listed() == {disk.id for disk in disks}
        for number, disk in enumerate(disks, start=1):
            trial.write(disk, 0, 4096, number)
        for number, disk in enumerate(disks, start=1):
            trial.expect(disk, bytes([number]) * 4096 + image.content.read_bytes()[4096:])

    def test_names_that_look_alike_are_told_apart(self, trial: Trial) -> None:
        """Whichever character a store joins them with: the parts of one are the parts of another."""
        image = trial.image(size=trial.small)
        pairs = [("a", "disk.b"), ("a-disk", "disk"), ("a.disk", "disk"), ("a-disk.b", "disk"), ("a.disk.b", "disk")]
        disks = [trial.made(image, label, name=name) for label, name in pairs]
        disks.append(trial.made(image, "A", name="disk.b"))
        assert trial.listed() == {disk.id for disk in disks}
        for number, disk in enumerate(disks, start=1):
            trial.write(disk, 0, 4096, number)
        for number, disk in enumerate(disks, start=1):
            trial.expect(disk, bytes([number]) * 4096 + image.content.read_bytes()[4096:])
        disks[0].remove()
        assert trial.listed() == {disk.id for disk in disks[1:]}

    def test_longest_name(self, trial: Trial) -> None:
        """63 characters for the instance, and a suffix for the disk; those that differ in the last one are two."""
        label = "x" * (62 - len(trial.instance("")))
        image = trial.image(size=trial.small)
        names = [(f"{label}a", "y" * 31), (f"{label}b", "y" * 31), (f"{label}b", "y" * 30 + "z")]
        disks = [trial.made(image, label, name=f"disk.eph999.{suffix}") for label, suffix in names]
        assert {len(disk.id.instance) for disk in disks} == {63}
        assert trial.listed() == {disk.id for disk in disks}
        for number, disk in enumerate(disks, start=1):
            trial.write(disk, 0, 4096, number)
        for number, disk in enumerate(disks, start=1):
            trial.expect(disk, bytes([number]) * 4096 + image.content.read_bytes()[4096:])

    def test_instances_path_may_have_any_character(self, trial: Trial) -> None:
        """Commas, spaces, colons, quotes and percent signs: they mean something to QEMU, to shells, to formats."""
        host = trial.backend.host
        odd = host.instances / "an odd, path: 50%=\"x\" 'y' $HOME #1"
        settings = dataclasses.replace(host.settings, instances=odd)
        image = trial.image(size=trial.small)
        with trial.again(Host(settings)) as on:
            disk = on.made(image, size=on.rounded(2 * on.small))
            try:
                disk.resize(on.rounded(3 * on.small))
                on.expect(disk, image.content.read_bytes() + bytes(on.rounded(3 * on.small) - on.small))
                disk.extract(on.scratch / "odd", "qcow2")
            finally:
                on.clear()

    def test_names_that_are_not_safe_are_none(self, trial: Trial) -> None:
        """No driver ever sees one."""
        for instance in ("", "..", ".", "a/b", "a_b", "-a", "a" * 64, "locks", "a\n", "a b", "ä"):
            with pytest.raises(ValueError, match="not a name"):
                DiskId(instance=instance, name="disk")
        for name in ("", "..", "disk/..", "disk.", "disk.EPH0", "disk.info", "other", "disk.part"):
            with pytest.raises(ValueError, match="not a name"):
                DiskId(instance=trial.instance("a"), name=name)
