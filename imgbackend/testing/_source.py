"""Where a hypervisor finds the disk: known without looking, and that disk alone."""

from imgbackend.testing import children, oracle
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import BlockSource, FileSource, NetworkSource


class SourceTests(Topic):
    """``source`` is a name, and no connection."""

    def test_source_is_known_before_the_disk_exists(self, trial: Trial) -> None:
        """And is the same when it does."""
        disk = trial.disk()
        before = disk.source()
        assert isinstance(before, FileSource | BlockSource | NetworkSource)
        trial.made(trial.image())
        after = trial.disk()
        assert after.exists()
        if before.format == after.source().format:
            assert after.source() == before

    def test_source_does_no_io(self, trial: Trial) -> None:
        """It is asked for while nothing may be touched."""
        disk = trial.disk()
        assert children.seen(lambda: disk.source(), reads=True) == []

    def test_source_is_the_same_each_time(self, trial: Trial) -> None:
        """And for every process."""
        disk = trial.made(trial.image())
        assert disk.source() == disk.source()
        with trial.again() as other:
            same = other.disk()
            assert same.exists()
            assert same.source() == disk.source()

    def test_paths_are_absolute(self, trial: Trial) -> None:
        """A hypervisor runs in another folder."""
        source = trial.made(trial.image()).source()
        if isinstance(source, FileSource | BlockSource):
            assert source.path.is_absolute()

    def test_each_disk_has_a_source_of_its_own(self, trial: Trial) -> None:
        """What is written through one is in that disk, and in no other."""
        image = trial.image()
        disks = [trial.made(image, "a"), trial.made(image, "b"), trial.made(image, "a", name="disk.local")]
        assert len({repr(disk.source()) for disk in disks}) == 3
        for number, disk in enumerate(disks, start=1):
            trial.write(disk, 0, 65536, number)
        for number, disk in enumerate(disks, start=1):
            target = trial.scratch / f"out{number}"
            disk.extract(target, "raw")
            wanted = bytes([number]) * 65536 + image.content.read_bytes()[65536:]
            oracle.expect(target.read_bytes(), wanted, f"the export of {disk.id}")

    def test_source_is_where_the_driver_finds_the_disk(self, trial: Trial) -> None:
        """What QEMU opens has the size that the driver tells."""
        disk = trial.made(trial.image(), size=trial.rounded(trial.large + 4096))
        assert oracle.size(disk.source()) == disk.info().size
