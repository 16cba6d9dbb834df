"""Making a disk: what is in it, what is told of it, and that it stays."""

import dataclasses
import os

import pytest

from imgbackend import errors
from imgbackend.system.host import Host
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import BlockSource, FileSource, Mi


class CreateTests(Topic):
    """A disk is the template's bytes, then zeroes."""

    def test_new_disk_has_the_bytes_of_its_image(self, trial: Trial) -> None:
        """The template's bytes, at the template's size."""
        image = trial.image()
        disk = trial.made(image)
        trial.expect(disk, image.content.read_bytes())

    def test_new_disk_is_the_image_then_zeroes(self, trial: Trial) -> None:
        """A size larger than the image's own is met at once."""
        image, size = trial.image(), trial.rounded(trial.large + 4 * Mi)
        disk = trial.made(image, size=size)
        trial.expect(disk, image.content.read_bytes() + bytes(size - trial.large))

    def test_disk_is_there_after_and_not_before(self, trial: Trial) -> None:
        """``exists`` tells the truth, on both sides."""
        disk = trial.disk()
        assert not disk.exists()
        trial.made(trial.image())
        assert disk.exists()

    def test_cache_tells_what_it_did(self, trial: Trial) -> None:
        """The way, the base, the size; and that nothing is done the second time."""
        image, size = trial.image(), trial.rounded(trial.large + Mi)
        first = trial.disk().cache(image, image.name, size)
        assert first.way != "exists"
        assert (first.base, first.fetched, first.size) == (image.name, True, size)
        second = trial.disk().cache(image, image.name, size)
        assert (second.way, second.fetched, second.grown, second.size) == ("exists", False, False, size)

    def test_new_disk_is_on_record(self, trial: Trial) -> None:
        """A driver that made it without calling ``prepare_template`` left no record."""
        image = trial.image()
        for label in ("a", "b"):
            disk = trial.made(image, label)
            record = trial.backend.host.records.of(disk.id)
            assert record is not None
            assert (record.backend, record.driver) == (trial.backend.name, trial.backend.driver)
            assert (record.image_id, record.base) == (image.image_id, image.name)
            assert record.format in trial.backend.traits.formats

    def test_disk_that_exists_is_not_made_again(self, trial: Trial) -> None:
        """What the guest wrote stays; another image is refused, where the record tells of which this one was made."""
        image = trial.image()
        disk = trial.made(image)
        trial.write(disk, 0, 65536, 0xA5)
        before, record = trial.read(disk), trial.backend.host.records.of(disk.id)
        trial.made(image)
        with pytest.raises(errors.DiskError, match="was made of the image"):
            trial.made(trial.image(seed=1))
        trial.expect(disk, before)
        assert trial.backend.host.records.of(disk.id) == record

    def test_disk_outlives_the_backend(self, trial: Trial) -> None:
        """Another process, and the next start, find the same disk."""
        image = trial.image()
        trial.made(image)
        with trial.again() as other:
            disk = other.disk()
            assert disk.exists()
            other.expect(disk, image.content.read_bytes())
            assert disk.info() == trial.disk().info()

    def test_qcow2_image_gives_the_same_bytes(self, trial: Trial) -> None:
        """However the image is delivered."""
        image = trial.image()
        disk = trial.made(trial.as_qcow2(image), size=trial.rounded(trial.large + Mi))
        whole = image.content.read_bytes()
        trial.expect(disk, whole + bytes(trial.rounded(trial.large + Mi) - len(whole)))

    def test_base_that_stays_qcow2_gives_the_same_bytes(self, trial: Trial) -> None:
        """``prepare_template`` tells the base's format, which may be one that the driver does not keep."""
        image = trial.image()
        host = trial.backend.host
        with trial.again(Host(dataclasses.replace(host.settings, force_raw=False))) as on:
            disk = on.made(trial.as_qcow2(image), size=trial.rounded(trial.large + Mi))
            whole = image.content.read_bytes()
            on.expect(disk, whole + bytes(trial.rounded(trial.large + Mi) - len(whole)))
            assert disk.info().size == trial.rounded(trial.large + Mi)

    def test_disk_is_nobody_elses_to_read(self, trial: Trial) -> None:
        """Where it is a file or a device of this host: nothing for others."""
        source = trial.made(trial.image()).source()
        if isinstance(source, FileSource | BlockSource):
            assert os.stat(source.path).st_mode & 0o007 == 0
