"""Exporting: the whole disk, in a file that needs nothing else."""

import pytest

from imgbackend import errors
from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi


class ExtractTests(Topic):
    """An export is what the guest sees, and appears when it is whole."""

    def test_extract_is_what_the_guest_sees(self, trial: Trial) -> None:
        """Image, growth and what was written, in each format."""
        disk = trial.made(trial.image(), size=trial.rounded(trial.large + Mi))
        trial.write(disk, Mi, Mi, 0x42)
        whole = trial.read(disk)
        for kind in ("raw", "qcow2"):
            target = trial.scratch / f"out.{kind}"
            disk.extract(target, kind)
            oracle.expect(oracle.file_bytes(target, kind, trial.scratch), whole, f"the export as {kind}")

    def test_extracted_file_needs_no_other(self, trial: Trial) -> None:
        """It has no backing file, and no name in it."""
        disk = trial.made(trial.image())
        target = trial.scratch / "out.qcow2"
        disk.extract(target, "qcow2")
        facts = oracle.file_facts(target, "qcow2")
        assert "backing-filename" not in facts
        assert facts["virtual-size"] == trial.large

    def test_compressed_extract_is_smaller(self, trial: Trial) -> None:
        """Of text that repeats, and with the same bytes."""
        image = trial.image("compressible")
        disk = trial.made(image)
        plain, packed = trial.scratch / "plain.qcow2", trial.scratch / "packed.qcow2"
        disk.extract(plain, "qcow2")
        disk.extract(packed, "qcow2", compress=True)
        assert packed.stat().st_size < plain.stat().st_size
        oracle.expect(oracle.file_bytes(packed, "qcow2", trial.scratch), image.content.read_bytes(), "compressed")

    def test_extract_changes_nothing(self, trial: Trial) -> None:
        """Neither the disk nor the store, and twice is the same."""
        disk = trial.made(trial.image())
        before, whole, info = trial.entries(), trial.read(disk), disk.info()
        for number in range(2):
            disk.extract(trial.scratch / f"out{number}", "raw")
        assert trial.entries() == before
        assert disk.info() == info
        trial.expect(disk, whole)
        oracle.expect((trial.scratch / "out0").read_bytes(), (trial.scratch / "out1").read_bytes(), "the first export")

    def test_extract_overwrites_nothing(self, trial: Trial) -> None:
        """What is there stays."""
        disk, target = trial.made(trial.image()), trial.scratch / "there"
        target.write_bytes(b"precious")
        with pytest.raises(errors.DiskError):
            disk.extract(target, "raw")
        assert target.read_bytes() == b"precious"

    def test_cancelled_extract_leaves_nothing(self, trial: Trial) -> None:
        """What progress raises comes back, and no file is left."""

        class CancelledError(Exception):
            pass

        def cancel(phase: str, _done: int, _total: int | None) -> None:
            if phase == "extract":
                raise CancelledError

        disk = trial.made(trial.image())
        folder = trial.scratch / "exports"
        folder.mkdir()
        for kind in ("raw", "qcow2"):
            with pytest.raises(CancelledError):
                disk.extract(folder / "out", kind, progress=cancel)
        assert list(folder.iterdir()) == []
