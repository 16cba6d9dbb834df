"""Bytes of every shape, on a store that was used before."""

from imgbackend.testing import oracle
from imgbackend.testing.content import SimpleImage
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial, slack
from imgbackend.types import FileSource, Mi


class BytesTests(Topic):
    """What goes in comes out, and where nothing went in there are zeroes."""

    def test_random_bytes(self, trial: Trial) -> None:
        """All of them, of an image without a hole or a pattern."""
        self._round_trip(trial, trial.image("random"))

    def test_compressible_bytes(self, trial: Trial) -> None:
        """A store that compresses or deduplicates gives them back."""
        self._round_trip(trial, trial.image("compressible"))

    def test_sparse_bytes(self, trial: Trial) -> None:
        """Holes read as zeroes."""
        self._round_trip(trial, trial.image("sparse"))

    def test_image_of_zeroes(self, trial: Trial) -> None:
        """Nothing but holes."""
        disk = trial.made(trial.zeroes())
        trial.expect(disk, bytes(trial.large))

    def test_zeroes_are_zero_on_a_store_that_was_used(self, trial: Trial) -> None:
        """What other disks left there is never seen: not in holes, and not in growth."""
        for label in ("a", "b", "c"):
            disk = trial.made(trial.image("sparse"), label, trial.rounded(2 * trial.large))
            trial.write(disk, 0, trial.rounded(2 * trial.large), 0xDB)
        for label in ("a", "b", "c"):
            trial.disk(label).remove()
        image, size = trial.image("sparse", seed=1), trial.rounded(trial.large + 2 * Mi)
        wanted = image.content.read_bytes() + bytes(size - trial.large)
        disks = [trial.made(image, label, size) for label in ("d", "e", "f")]
        for disk in disks:
            trial.expect(disk, wanted)
        larger = trial.rounded(2 * trial.large)
        for disk in disks:
            disk.resize(larger)
        for disk in disks:
            trial.expect(disk, wanted + bytes(larger - size))

    def test_growth_reads_as_zeroes_where_a_guest_wrote_to_the_end(self, trial: Trial) -> None:
        """Again and again."""
        disk, whole = trial.made(trial.image("sparse")), b""
        size = trial.large
        for number in range(3):
            trial.write(disk, size - Mi, Mi, 0x10 + number)
            whole = trial.read(disk)
            size = trial.rounded(size + Mi)
            disk.resize(size)
            trial.expect(disk, whole + bytes(size - len(whole)))

    def test_last_sector_belongs_to_the_disk(self, trial: Trial) -> None:
        """A guest can write it and read it, also after growth."""
        size = trial.rounded(trial.large + Mi)
        disk = trial.made(trial.image(), size=size)
        trial.write(disk, size - 512, 512, 0x61)
        assert trial.read(disk)[-512:] == b"\x61" * 512

    def test_allocated_bytes_stay_bounded(self, trial: Trial) -> None:
        """A disk never takes more than its size and some metadata, whatever is done to it."""
        size = trial.rounded(2 * trial.large)
        disk = trial.made(trial.image("random"), size=size)
        trial.write(disk, 0, size, 0x35)
        with trial.again() as on:
            assert on.disk().info().allocated <= size + slack(trial.backend)

    def test_sparse_export_stays_sparse(self, trial: Trial) -> None:
        """An export of zeroes costs no room."""
        disk = trial.made(trial.image("sparse"), size=trial.rounded(2 * trial.large))
        target = trial.scratch / "sparse"
        disk.extract(target, "raw")
        if isinstance(disk.source(), FileSource):
            assert target.stat().st_blocks * 512 <= slack(trial.backend)

    @staticmethod
    def _round_trip(trial: Trial, image: SimpleImage) -> None:
        whole = image.content.read_bytes()
        trial.expect(trial.made(image, "raw"), whole)
        trial.expect(trial.made(trial.as_qcow2(image), "qcow2"), whole)
        target = trial.scratch / "round-trip"
        trial.disk("qcow2").extract(target, "raw")
        oracle.expect(target.read_bytes(), whole, "the export")
