"""What is refused, and that a refusal leaves nothing."""

from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.testing.content import copy_sparse
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi, Progress, base_name


class RefusalTests(Topic):
    """A call that is refused changes nothing."""

    def test_image_larger_than_the_disk_is_refused(self, trial: Trial) -> None:
        """Before it is fetched where its size is declared, and after that otherwise."""
        before = trial.entries()
        image = trial.image(size=trial.large + 2 * Mi)
        for told in (image, trial.as_qcow2(image)):
            with pytest.raises(errors.TemplateTooLarge):
                trial.made(told, size=trial.large)
        assert trial.entries() == before

    def test_declared_image_that_is_too_large_is_not_fetched(self, trial: Trial) -> None:
        """A refusal that was possible at once costs nothing."""
        image = trial.image(size=trial.large + 2 * Mi).but(size=trial.large + 2 * Mi)
        with pytest.raises(errors.TemplateTooLarge):
            trial.made(image, size=trial.large)
        assert image.fetches == 0

    def test_image_that_is_cached_and_too_large_is_refused(self, trial: Trial) -> None:
        """Also where its base is there, and used by another disk."""
        image = trial.image(size=trial.rounded(trial.large + 2 * Mi))
        other = trial.made(image, "other")
        before = trial.entries()
        with pytest.raises(errors.TemplateTooLarge):
            trial.made(image, size=trial.large)
        assert trial.entries() == before
        trial.expect(other, image.content.read_bytes())

    def test_failed_fetch_leaves_nothing(self, trial: Trial) -> None:
        """The source breaks off; then it works, and so does the same call."""

        def broken(target: Path, _progress: Progress) -> None:
            copy_sparse(image.content, target, trial.large // 2)
            raise errors.SourceUnavailable("the source broke off")

        image, before = trial.image(), trial.entries()
        with pytest.raises(errors.SourceUnavailable):
            trial.made(image.but(instead=broken))
        assert trial.entries() == before
        assert not trial.disk().exists()
        trial.expect(trial.made(image), image.content.read_bytes())

    def test_short_fetch_leaves_nothing(self, trial: Trial) -> None:
        """Fewer bytes than were declared are no image."""

        def short(target: Path, _progress: Progress) -> None:
            copy_sparse(image.content, target, trial.large // 2)

        image, before = trial.image().but(size=trial.large), trial.entries()
        with pytest.raises(errors.TemplateCorrupt):
            trial.made(image.but(instead=short))
        assert trial.entries() == before
        trial.expect(trial.made(image), image.content.read_bytes())

    def test_callers_own_error_passes_unchanged(self, trial: Trial) -> None:
        """What a fetch function raises, but for an ``OSError``, is its caller's to know."""

        class OwnError(Exception):
            pass

        def broken(_target: Path, _progress: Progress) -> None:
            raise OwnError("mine")

        image, before = trial.image(), trial.entries()
        with pytest.raises(OwnError, match="mine"):
            trial.made(image.but(instead=broken))
        assert trial.entries() == before

    def test_image_with_a_backing_file_is_refused(self, trial: Trial) -> None:
        """It would have the host read a file of the image's choice."""
        image, before = trial.unsafe(), trial.entries()
        with pytest.raises(errors.TemplateError):
            trial.made(image)
        assert trial.entries() == before
        assert not trial.disk().exists()

    def test_sizes_that_are_none_are_refused(self, trial: Trial) -> None:
        """Zero is no magic, and there is nothing below it."""
        image, before = trial.image(), trial.entries()
        for size in (0, -1):
            with pytest.raises(errors.DiskError):
                trial.made(image, size=size)
        assert trial.entries() == before
        assert image.fetches == 0

    def test_absent_disk_cannot_be_changed(self, trial: Trial) -> None:
        """There is nothing to tell of it, to grow, or to export."""
        disk, before = trial.disk(), trial.entries()
        for call in (disk.info, lambda: disk.resize(trial.large), lambda: disk.extract(trial.scratch / "out", "raw")):
            with pytest.raises(errors.DiskNotFound):
                call()
        assert trial.entries() == before
        assert not (trial.scratch / "out").exists()

    def test_wrong_name_of_a_base_is_refused(self, trial: Trial) -> None:
        """Under the name of another image's base it would be taken for that."""
        image, before = trial.image(), trial.entries()
        for name in ("../escaped", "", base_name("of-another-image")):
            with pytest.raises(errors.DiskError):
                trial.disk().cache(image, name)
        assert trial.entries() == before
