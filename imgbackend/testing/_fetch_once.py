"""An image is fetched once, whoever asks, and kept as it came."""

import contextlib
import hashlib
import os

from imgbackend.driver.abilities import HoldsBases
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import FileSource, Mi


class FetchOnceTests(Topic):
    """Disks share their base, and nobody writes to it."""

    def test_second_disk_fetches_nothing(self, trial: Trial) -> None:
        """The bytes come from the base."""
        image = trial.image()
        trial.made(image)
        done = trial.disk("b").cache(image, image.name)
        assert (done.fetched, image.fetches) == (False, 1)
        trial.expect(trial.disk("b"), image.content.read_bytes())

    def test_another_backend_of_the_store_fetches_nothing(self, trial: Trial) -> None:
        """The base is on the host, or in the store, and not in one process."""
        image = trial.image()
        trial.made(image)
        with trial.again() as other:
            assert not other.disk("b").cache(image, image.name).fetched
        assert image.fetches == 1

    def test_base_outlives_its_first_disk(self, trial: Trial) -> None:
        """Removing a disk takes nothing from the next."""
        image = trial.image()
        trial.made(image).remove()
        trial.expect(trial.made(image, "b"), image.content.read_bytes())
        assert image.fetches == 1

    def test_base_is_never_written_to(self, trial: Trial) -> None:
        """Neither by a guest, nor by growing, nor by removing the disk."""
        image = trial.image()
        disk = trial.made(image)
        before = self._base(trial, image.name)
        trial.write(disk, 0, trial.large, 0x5A)
        disk.resize(trial.rounded(trial.large + Mi))
        assert self._base(trial, image.name) == before
        disk.remove()
        assert self._base(trial, image.name) == before
        trial.expect(trial.made(image, "b"), image.content.read_bytes())

    def test_base_stays_as_it_was_made(self, trial: Trial) -> None:
        """Its bytes, its length and its mode: it is what further disks are made from, and read-only."""
        image = trial.image()
        if isinstance(trial.backend, HoldsBases):
            trial.made(image, "first")
        else:
            os.close(trial.backend.attached.bases.ready(image.name, image, None).fd)
        before = self._base(trial, image.name)
        for label, size in (("a", None), ("b", trial.rounded(2 * trial.large))):
            trial.made(image, label, size)
            assert self._base(trial, image.name) == before, "the base was changed where a disk was made"

    def test_disk_is_no_link_to_its_base(self, trial: Trial) -> None:
        """Where both are files: neither a hard link nor a symbolic one."""
        image = trial.image()
        source = trial.made(image).source()
        if isinstance(source, FileSource):
            assert not source.path.is_symlink()
            assert os.stat(source.path).st_nlink == 1
            with contextlib.suppress(FileNotFoundError):
                assert not os.path.samefile(source.path, trial.backend.attached.bases.path(image.name))

    def test_disks_of_one_base_never_see_each_others_writes(self, trial: Trial) -> None:
        """Whichever was first."""
        image = trial.image()
        one, two = trial.made(image, "a"), trial.made(image, "b")
        whole = image.content.read_bytes()
        trial.write(one, 0, 131072, 0x11)
        trial.expect(two, whole)
        trial.write(two, 65536, 131072, 0x22)
        trial.expect(one, b"\x11" * 131072 + whole[131072:])
        trial.expect(two, whole[:65536] + b"\x22" * 131072 + whole[196608:])

    def _base(self, trial: Trial, name: str) -> tuple[object, ...]:
        """What tells whether a base was changed: its bytes and its file; in a store, its facts.

        The bytes by their digest: where CI is set, pytest would compare megabytes line by line.
        """
        store = trial.backend
        if isinstance(store, HoldsBases):
            found = store.find_base(name)
            assert found is not None, "the store lost a base"
            return (found.name, found.size, dict(found.tags))
        path = store.attached.bases.path(name)
        status = os.stat(path)
        return (hashlib.sha256(path.read_bytes()).hexdigest(), status.st_ino, status.st_size, status.st_mode)
