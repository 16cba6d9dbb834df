"""Sizes: rounded up, grown with zeroes, never shrunk."""

import pytest

from imgbackend import errors
from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi


class SizeTests(Topic):
    """Sizes are what a guest sees, in bytes."""

    def test_sizes_are_rounded_up(self, trial: Trial) -> None:
        """To the granularity that the driver states, around a multiple of it."""
        image, step = trial.image(), trial.backend.traits.granularity
        for number, size in enumerate((trial.large, trial.large + 1, trial.large + step, trial.large + step + 1)):
            disk = trial.made(image, f"r{number}", size)
            assert disk.info().size == trial.rounded(size)
            assert oracle.size(disk.source()) == trial.rounded(size)

    def test_image_of_an_odd_size_is_rounded_up(self, trial: Trial) -> None:
        """Without a size the disk is the image's own, in whole steps; the rest is zeroes."""
        image = trial.image(size=trial.large + 512 + 77)
        disk = trial.made(image)
        whole = image.content.read_bytes()
        assert disk.info().size == trial.rounded(len(whole))
        trial.expect(disk, whole + bytes(trial.rounded(len(whole)) - len(whole)))

    def test_smallest_disk(self, trial: Trial) -> None:
        """An image of the smallest size that the store keeps."""
        image = trial.image("random", size=trial.rounded(trial.smallest))
        disk = trial.made(image)
        trial.expect(disk, image.content.read_bytes())

    def test_resize_grows_with_zeroes(self, trial: Trial) -> None:
        """What was there stays, what is new is zero, and the size is told."""
        image, size = trial.image(), trial.rounded(trial.large + 3 * Mi)
        disk = trial.made(image)
        disk.resize(size)
        assert disk.info().size == oracle.size(disk.source()) == size
        trial.expect(disk, image.content.read_bytes() + bytes(size - trial.large))

    def test_resize_keeps_what_the_guest_wrote(self, trial: Trial) -> None:
        """To the last byte before the growth."""
        disk, size = trial.made(trial.image()), trial.rounded(trial.large + Mi)
        trial.write(disk, trial.large - 65536, 65536, 0xC3)
        before = trial.read(disk)
        disk.resize(size)
        trial.expect(disk, before + bytes(size - trial.large))

    def test_resize_rounds_up(self, trial: Trial) -> None:
        """One byte more is one step more."""
        disk = trial.made(trial.image())
        disk.resize(trial.large + 1)
        assert disk.info().size == oracle.size(disk.source()) == trial.rounded(trial.large + 1)

    def test_resize_to_the_same_size_changes_nothing(self, trial: Trial) -> None:
        """It is no error, and no work."""
        disk = trial.made(trial.image())
        before = trial.read(disk)
        disk.resize(trial.large)
        trial.expect(disk, before)

    def test_resize_image_alone_grows(self, trial: Trial) -> None:
        """The hook, and not the engine after it, gives the size."""
        disk, size = trial.made(trial.image()), trial.rounded(trial.large + 5 * Mi)
        before = trial.read(disk)
        with disk.locked():
            disk.resize_image(size)
        assert oracle.size(disk.source()) == size
        trial.expect(disk, before + bytes(size - trial.large))

    def test_cache_grows_a_disk_that_exists(self, trial: Trial) -> None:
        """A smaller disk is grown, and what the guest wrote stays."""
        image, size = trial.image(), trial.rounded(trial.large + 2 * Mi)
        disk = trial.made(image)
        trial.write(disk, 65536, 65536, 0x7E)
        before = trial.read(disk)
        done = disk.cache(image, image.name, size)
        assert (done.way, done.grown, done.size) == ("exists", True, size)
        trial.expect(disk, before + bytes(size - trial.large))

    def test_shrink_is_refused(self, trial: Trial) -> None:
        """By ``resize``; ``cache`` leaves a larger disk as it is."""
        image, size = trial.image(), trial.rounded(trial.large + 2 * Mi)
        disk = trial.made(image, size=size)
        before = trial.read(disk)
        with pytest.raises(errors.DiskError):
            disk.resize(trial.large)
        assert disk.cache(image, image.name, trial.large).size == size
        trial.expect(disk, before)
