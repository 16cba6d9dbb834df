"""Clones: made from where a source keeps the image, and held by the store."""

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import ChecksBases, Cloneable, HoldsBases, Importable
from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Location, Mi, base_name


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
        from imgbackend.driver.abilities import Importable as Able

        image, disk = trial.image(), trial.disk(name="disk.config")
        assert isinstance(disk, Able)
        trial.backend.host.make_folder(trial.backend.host.folder(disk.id))
        with disk.locked():
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

    @needs(ChecksBases)
    @advisory("1.1")
    def test_base_is_read_as_it_was_imported(self, trial: Trial) -> None:
        """Its bytes, in the order of their offsets and none twice; it is closed half-way too."""
        image = trial.image()
        trial.made(image)
        store, got, last = trial.backend, bytearray(trial.large), 0
        assert isinstance(store, ChecksBases)
        for at, data in store.read_base(image.name):
            assert last <= at, f"the bytes at {at} come after those at {last}"
            assert at + len(data) <= trial.large, "there are bytes beyond the end of the base"
            got[at : at + len(data)] = data
            last = at + len(data)
        oracle.expect(bytes(got), image.content.read_bytes(), "the base")
        begun = store.read_base(image.name)
        next(begun)
        begun.close()
        with pytest.raises(errors.BaseMissing):
            next(store.read_base(base_name(f"{image.image_id}-absent")))

    @needs(ChecksBases)
    @advisory("1.1")
    def test_base_takes_tags_and_keeps_the_others(self, trial: Trial) -> None:
        """Instead of those of the same keys; and another host sees them."""
        image = trial.image()
        trial.made(image)
        store = trial.backend
        assert isinstance(store, ChecksBases)
        before = store.find_base(image.name)
        assert before is not None
        store.tag_base(image.name, {"verified": "1234567890", "bad": "two words, and ümlauts"})
        store.tag_base(image.name, {"verified": "1234567891"})
        with trial.again() as other:
            assert isinstance(other.backend, ChecksBases)
            found = other.backend.find_base(image.name)
        assert found is not None
        assert (found.tags.get("verified"), found.tags.get("bad")) == ("1234567891", "two words, and ümlauts")
        assert {key: found.tags.get(key) for key in before.tags} == dict(before.tags), "a tag was lost"
        assert found.identity == before.identity
        absent = base_name(f"{image.image_id}-absent")
        with pytest.raises(errors.BaseMissing):
            store.tag_base(absent, {})
        with pytest.raises(errors.BaseMissing):
            store.rename_base(absent, base_name(f"{image.image_id}-other"), {})

    @needs(ChecksBases)
    @advisory("1.1")
    def test_base_that_is_put_aside_serves_its_disks_and_no_others(self, trial: Trial) -> None:
        """Its disks go on; the next one has a fresh copy; it is listed under its new name, and can be removed."""
        image, aside = trial.image(), base_name(f"bad {trial.instance('base')}")
        disk, store = trial.made(image, "a"), trial.backend
        assert isinstance(store, ChecksBases)
        before = store.find_base(image.name)
        assert before is not None
        store.rename_base(image.name, aside, {"bad": "a bit was flipped"})
        found = store.find_base(aside)
        assert store.find_base(image.name) is None, "a bad base is found by its old name"
        assert found is not None, "a base that was put aside is not found by its new name"
        assert (found.identity, found.tags.get("bad")) == (before.identity, "a bit was flipped")
        assert trial.made(image, "b").exists()
        assert image.fetches == 2, "the next disk was made of the bad base"
        fresh = store.find_base(image.name)
        assert fresh is not None
        assert "bad" not in fresh.tags
        assert not fresh.identity or fresh.identity != before.identity, "a fresh copy has the identity of the bad one"
        assert {image.name, aside} <= {base.name for base in store.list_bases()}
        for label in ("a", "b"):
            trial.expect(trial.disk(label), image.content.read_bytes())
        disk.remove()
        store.remove_base(aside)
        assert store.find_base(aside) is None, "it cannot be removed when no disk hangs on it"
        trial.expect(trial.disk("b"), image.content.read_bytes())
