"""What is told of a disk and of a store, measured against QEMU's view."""

import os
from typing import Any

import pytest

from imgbackend.driver.abilities import Checkable, HoldsBases, TellsLeftovers
from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial, slack
from imgbackend.types import DiskId, FileSource, Mi


class InfoTests(Topic):
    """``info``, ``list_disks`` and ``capacity`` tell what is so."""

    def test_size_is_what_a_guest_sees(self, trial: Trial) -> None:
        """After it was made, and after it was grown."""
        disk = trial.made(trial.image())
        assert disk.info().size == oracle.size(disk.source()) == trial.large
        disk.resize(trial.rounded(trial.large + Mi))
        assert disk.info().size == oracle.size(disk.source()) == trial.rounded(trial.large + Mi)

    def test_format_is_one_that_the_driver_keeps(self, trial: Trial) -> None:
        """The same in ``info``, in the record and in ``source``, and QEMU can open it so."""
        disk = trial.made(trial.image())
        record = trial.backend.host.records.of(disk.id)
        assert record is not None
        assert disk.info().format == disk.source().format == record.format
        assert record.format in trial.backend.traits.formats

    def test_allocated_is_what_the_storage_spends(self, trial: Trial) -> None:
        """No less than what a guest wrote, and no more than the disk."""
        disk = trial.made(trial.image("sparse"))
        trial.write(disk, 0, 2 * Mi, 0x33)
        allocated = disk.info().allocated
        assert 2 * Mi <= allocated <= trial.large + slack(trial.backend)
        source = disk.source()
        if isinstance(source, FileSource):
            assert allocated == os.stat(source.path).st_blocks * 512

    def test_holes_are_kept(self, trial: Trial) -> None:
        """Where disks are files: an image of zeroes costs no blocks."""
        if trial.backend.host.settings.preallocate:
            pytest.skip("not applicable: preallocate_images has each disk take all its room when it is made")
        disk = trial.made(trial.image("sparse"), size=trial.rounded(2 * trial.large))
        source = disk.source()
        if isinstance(source, FileSource):
            assert os.stat(source.path).st_blocks * 512 <= slack(trial.backend)

    def test_list_tells_every_disk_and_no_other(self, trial: Trial) -> None:
        """Names that begin alike are told apart."""
        image = trial.image(size=trial.small)
        labels = (("vm", "disk"), ("vm1", "disk"), ("vm1", "disk.local"), ("vm1", "disk.rescue"), ("vm10", "disk"))
        made = {trial.made(image, label, name=name).id for label, name in labels}
        assert trial.listed() == made
        with trial.again() as other:
            assert other.listed() == made

    def test_list_does_not_repeat(self, trial: Trial) -> None:
        """Each disk once."""
        image = trial.image(size=trial.small)
        trial.made(image, "a", size=trial.rounded(2 * trial.small))
        trial.made(image, "b")
        found = [disk for disk in trial.backend.list_disks() if disk.instance.startswith(trial.instance(""))]
        assert len(found) == len(set(found)) == 2

    def test_list_takes_nothing_else_for_a_disk(self, trial: Trial) -> None:
        """Files that somebody left in an instance's folder, and instances without a disk."""
        disk = trial.made(trial.image(size=trial.small))
        folder = trial.backend.host.folder(disk.id)
        stray = [folder / "console.log", folder / "disk.local"]
        for path in stray:
            path.write_bytes(b"not made by this backend")
        empty = trial.backend.host.folder(trial.disk("empty").id)
        empty.mkdir()
        try:
            assert trial.listed() == {disk.id}
        finally:
            for path in stray:
                path.unlink()
            empty.rmdir()

    def test_capacity_is_plausible(self, trial: Trial) -> None:
        """There is a store, and no more of it is free than there is."""
        capacity = trial.backend.capacity()
        assert 0 <= capacity.free <= capacity.total
        assert capacity.total > 0

    @needs(Checkable)
    def test_findings_are_lines_with_advice(self, trial: Trial) -> None:
        """What ``doctor`` tells of the store: a line each, what to do where it is not well, and nothing is changed."""
        trial.made(trial.image(size=trial.small))
        before = trial.entries()
        backend: Any = trial.backend
        found = list(backend.findings())
        assert found, "nothing is looked at"
        for finding in found:
            assert finding.verdict in ("ok", "warning", "error"), finding
            assert finding.check, finding
            assert finding.found, finding
            assert finding.advice or finding.verdict == "ok", f"{finding} does not say what to do"
            assert "\n" not in f"{finding.check}{finding.found}{finding.advice}", f"{finding} has more than a line"
        assert trial.entries() == before

    def test_format_is_not_taken_from_what_a_guest_wrote(self, trial: Trial) -> None:
        """A guest that puts a qcow2 on its disk, header first, is not believed: it could name a file of the host."""
        image = trial.image()
        disk = trial.made(image, size=trial.rounded(2 * trial.large))
        header = trial.scratch / "header"
        header.write_bytes(trial.as_qcow2(trial.image("sparse")).content.read_bytes()[: 4 * 65536])
        before, source = disk.info(), disk.source()
        oracle.write_from(source, 0, header)
        whole = trial.read(disk)
        with trial.again() as on:
            found = on.disk()
            assert (found.info().format, found.info().size) == (before.format, before.size)
            assert found.source() == source
            on.expect(found, header.read_bytes() + whole[header.stat().st_size :])
            found.extract(on.scratch / "out", "raw")
            oracle.expect((on.scratch / "out").read_bytes(), whole, "the export")

    def test_disk_keeps_its_name(self, trial: Trial) -> None:
        """``disk`` gives the disk that was asked for, of the driver's class."""
        wanted = DiskId(instance=trial.instance("a"), name="disk.local.rescue")
        disk = trial.backend.disk(wanted)
        assert disk.id == wanted
        assert type(disk) is trial.backend.disk_type
        assert disk.backend is trial.backend

    @needs(TellsLeftovers)
    @advisory("1.1")
    def test_leftovers_are_nothing_that_is_whole(self, trial: Trial) -> None:
        """What is told to be unfinished is a disk's or a base's, and none of those that are there; nothing changes."""
        trial.made(trial.image(size=trial.small), "whole")
        before = trial.entries()
        backend: Any = trial.backend
        bases = {base.name for base in backend.list_bases()} if isinstance(backend, HoldsBases) else set()
        for left in backend.leftovers():
            assert (left.disk is None) != (left.base is None), f"{left} is a disk's or a base's, one of both"
            assert left.disk != trial.disk("whole").id, f"{left} is of a disk that is whole"
            assert left.base not in bases, f"{left} is of a base that is whole"
            assert left.allocated >= 0, left
            assert left.time >= 0, left
        assert trial.entries() == before
