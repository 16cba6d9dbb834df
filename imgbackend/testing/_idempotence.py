"""Every call again: it does nothing more, and does no harm."""

from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import DiskId


class IdempotenceTests(Topic):
    """Who does not know whether a call got through makes it again."""

    def test_every_call_can_be_repeated(self, trial: Trial) -> None:
        """By another process too."""
        image, size = trial.image(), trial.rounded(2 * trial.large)
        wanted = image.content.read_bytes() + bytes(size - trial.large)
        for _ in range(3):
            with trial.again() as on:
                disk = on.made(image, size=trial.large)
                on.made(image)
                disk.resize(size)
                assert disk.info() == on.disk().info()
                assert disk.exists()
                on.expect(disk, wanted)
        for _ in range(3):
            with trial.again() as on:
                on.disk().remove()
                assert not on.disk().exists()

    def test_looking_changes_nothing(self, trial: Trial) -> None:
        """``find``, ``plan``, ``source``, ``info`` and ``list_disks``, before and after."""
        image = trial.image()
        made = trial.made(image, "made")
        before, whole = trial.entries(), trial.read(made)
        for disk in (made, trial.disk("absent")):
            with disk.reading():
                assert disk.find() == disk.find()
            assert disk.source() == disk.source()
            plans = [disk.plan(image.declared, info, size) for info in (None, None) for size in (None, trial.large)]
            assert plans[:2] == plans[2:]
        assert set(trial.backend.list_disks()) == set(trial.backend.list_disks())
        assert trial.entries() == before
        trial.expect(made, whole)

    def test_explain_does_nothing(self, trial: Trial) -> None:
        """It tells of a way, and then that the disk exists."""
        image, before = trial.image(), trial.entries()
        plan = trial.disk().explain(image, image.name, trial.large)
        assert plan is not None
        assert plan == trial.disk().explain(image, image.name, trial.large)
        assert (image.fetches, trial.entries()) == (0, before)
        trial.made(image)
        assert trial.disk().explain(image, image.name, trial.large) is None

    def test_plan_tells_the_way_that_is_taken(self, trial: Trial) -> None:
        """Of a further disk, whose base is there: nothing is left to be found out on the way."""
        image = trial.image()
        trial.made(image)
        plan = trial.disk("b").explain(image, image.name)
        assert plan is not None
        done = trial.disk("b").cache(image, image.name)
        assert done.way == plan.way

    def test_growth_alone_can_be_repeated(self, trial: Trial) -> None:
        """The hook, as after a kill: from the old size, and from the new one."""
        image, size = trial.image(), trial.rounded(2 * trial.large)
        disk = trial.made(image)
        for _ in range(2):
            with disk.locked():
                disk.resize_image(size)
            assert disk.info().size == size
        trial.expect(disk, image.content.read_bytes() + bytes(size - trial.large))

    def test_creation_alone_makes_a_whole_disk(self, trial: Trial) -> None:
        """The hook, without the growth that follows it in ``cache``."""
        image, size = trial.image(), trial.rounded(2 * trial.large)
        disk = trial.disk()
        with disk.locked(), trial.preparer(disk, image, size) as prepare:
            disk.discard()
            assert disk.find() is None
            disk.create_image(prepare, prepare.base, size)
            found = disk.find()
            assert found is not None
            assert trial.large <= found.size <= size
        trial.expect(disk, image.content.read_bytes() + bytes(found.size - trial.large))
        with disk.locked(changing=False):  # no record was written, so that it is nobody's
            disk.remove_image()
            disk.remove_image()
            assert disk.find() is None

    def test_export_alone_can_be_repeated(self, trial: Trial) -> None:
        """The hook, into a file that is there and empty."""
        image = trial.image()
        disk = trial.made(image)
        for number in range(2):
            target = trial.scratch / f"alone{number}"
            target.touch()
            with disk.locked() as progress:
                disk.extract_image(target, "raw", compress=False, progress=progress)
            oracle.expect(target.read_bytes(), image.content.read_bytes(), "the export")

    def test_backend_can_be_closed_twice(self, trial: Trial) -> None:
        """Also one that was never opened."""
        with trial.again() as on:
            on.made(trial.image(size=trial.small))
            on.backend.close()
            on.backend.close()
        type(trial.backend)(trial.backend.name, trial.backend.conf, trial.backend.host).close()
        absent = trial.backend.disk(DiskId(instance=trial.instance("absent"), name="disk"))
        assert not absent.exists()
