"""Clones: made from where a source keeps the image, and held by the store."""

import pytest

from imgbackend import errors
from imgbackend.abilities import Cloneable, HoldsBases, Importable
from imgbackend.testing.topic import Topic, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Location, Mi


class CloneTests(Topic):
    """For disks that are :class:`Cloneable` or :class:`Importable`, and backends that hold bases."""

    @needs(Cloneable)
    def test_clone_has_the_bytes_and_fetches_nothing(self, trial: Trial, location: Location) -> None:
        """Where the source keeps the image in the same storage."""
        image = trial.cloneable(location)
        done = trial.disk().cache(image, image.name, trial.rounded(2 * trial.large))
        assert (done.fetched, image.fetches) == (False, 0)
        trial.expect(trial.disk(), image.content.read_bytes() + bytes(trial.rounded(2 * trial.large) - trial.large))

    @needs(Cloneable)
    def test_clones_share_no_writes(self, trial: Trial, location: Location) -> None:
        """Neither with each other, nor with the image."""
        image = trial.cloneable(location)
        whole = image.content.read_bytes()
        one, two = trial.made(image, "a"), trial.made(image, "b")
        trial.write(one, 0, Mi, 0x51)
        trial.expect(two, whole)
        one.remove()
        trial.expect(trial.made(image, "c"), whole)

    @needs(Cloneable)
    def test_clone_that_is_too_large_is_refused(self, trial: Trial, location: Location) -> None:
        """Before it is made."""
        image, before = trial.cloneable(location), trial.entries()
        with pytest.raises(errors.TemplateTooLarge):
            trial.made(image, size=trial.rounded(trial.large // 2))
        assert trial.entries() == before

    @needs(Cloneable)
    def test_location_elsewhere_is_not_cloned(self, trial: Trial) -> None:
        """It is fetched, and ``cache`` says why."""
        image = trial.cloneable(Location(url="nowhere://of/no/storage"))
        done = trial.disk().cache(image, image.name)
        assert done.fetched
        assert done.reason
        trial.expect(trial.disk(), image.content.read_bytes())

    @needs(Importable)
    def test_finished_file_becomes_a_disk(self, trial: Trial) -> None:
        """With its bytes; the file stays as it was."""
        from imgbackend.abilities import Importable as Able

        image, disk = trial.image(), trial.disk(name="disk.config")
        assert isinstance(disk, Able)
        trial.backend.host.make_folder(trial.backend.host.folder(disk.id))
        with disk.changing():
            disk.import_image(image.content)
            assert disk.find() is not None
        trial.expect(disk, image.content.read_bytes())

    @needs(HoldsBases)
    def test_store_keeps_one_base_for_all(self, trial: Trial) -> None:
        """With its tags, under its name; and no local copy stays."""
        image = trial.image()
        trial.made(image, "a")
        trial.made(image, "b")
        store = trial.backend
        assert isinstance(store, HoldsBases)
        found = store.find_base(image.name)
        assert found is not None
        assert (found.name, found.size) == (image.name, trial.large)
        assert found.tags.get("image_id") == image.image_id
        assert [base.name for base in store.list_bases() if base.name == image.name] == [image.name]
        assert not store.attached.bases.path(image.name).exists()
        assert image.fetches == 1

    @needs(HoldsBases)
    def test_base_in_use_is_not_removed(self, trial: Trial) -> None:
        """DiskBusy while a disk hangs on it; then it goes, and its absence is no error."""
        image = trial.image()
        disk, store = trial.made(image), trial.backend
        assert isinstance(store, HoldsBases)
        try:
            store.remove_base(image.name)
        except errors.DiskBusy:
            assert store.find_base(image.name) is not None
        trial.expect(disk, image.content.read_bytes())
        disk.remove()
        store.remove_base(image.name)
        store.remove_base(image.name)
        assert store.find_base(image.name) is None
        trial.expect(trial.made(image), image.content.read_bytes())
