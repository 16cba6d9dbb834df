"""Drivers that export something else than the disk."""

import os
import subprocess
from pathlib import Path

from imgbackend import errors
from imgbackend.system import files
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Progress, ignore
from imgbackend_qcow2.driver import Qcow2Disk
from imgbackend_raw.driver import RawDisk
from kit.faults import caught


@caught(
    {
        "test_extracted_file_needs_no_other": '"backing-filename" not in facts',
        "test_extract_is_what_the_guest_sees": "the export as raw",
    }
)
class ExportsTheOverlay(Qcow2Disk):
    """The disk is a file, and the file is what is copied."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        with files.open_fd(self.path, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            files.copy(source, out, progress, phase="extract")


@caught({"test_extract_is_what_the_guest_sees": "the export as raw"})
class ExportsHalf(MemoryDisk):
    """The size of the image is taken for that of the disk, which was grown since."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        super().extract_image(target, format, compress=compress, progress=progress)
        if format == "raw":
            os.truncate(target, os.stat(target).st_size // 2)


@caught({"test_extract_is_what_the_guest_sees": "qcow2"})
class ExportsAlwaysRaw(MemoryDisk):
    """The disk is raw, and so is its copy, whatever it is called."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        super().extract_image(target, "raw", compress=False, progress=progress)


@caught({"test_compressed_extract_is_smaller": "<"})
class NeverCompresses(MemoryDisk):
    """It is an option, and the export is right without it."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        super().extract_image(target, format, compress=False, progress=progress)


@caught(
    {
        "test_cancelled_extract_leaves_nothing": "DID NOT RAISE",
        "test_progress_is_told_in_known_words_and_rising_numbers": "extract",
    }
)
class ExportsInSilence(MemoryDisk):
    """Progress is for the user interface, and there is none yet."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        super().extract_image(target, format, compress=compress, progress=ignore)


@caught({"test_disk_of_a_running_guest_is_not_exported": "DID NOT RAISE"})
class ExportsUnderTheGuest(MemoryDisk):
    """To read is harmless; that what is read changes meanwhile is not seen on a quiet disk."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        with files.open_fd(self.path, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            files.copy(source, out, progress, phase="extract")


@caught({"test_killed_extract_changes_nothing": "cannot read"})
class ExportsByMoving(MemoryDisk):
    """Nobody can write to a disk that is out of the way while it is copied."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        aside = self.path.with_name(f".{self.path.name}.aside")
        os.rename(self.path, aside)
        with files.open_fd(aside, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            files.copy(source, out, progress, phase="extract")
        os.rename(aside, self.path)


@caught({"test_extract_changes_nothing": "trial.entries() == before"})
class ConvertsInPlace(MemoryDisk):
    """The copy is made beside the disk, where there is room for it, and stays for the next time."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        kept = self.path.with_name(f"{self.path.name}.export")
        kept.touch()
        super().extract_image(kept, format, compress=compress, progress=progress)
        with files.open_fd(kept, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            files.copy(source, out)


@caught({"test_sparse_export_stays_sparse": "target.stat().st_blocks * 512 <= slack(trial.backend)"})
class ExportsZeroes(MemoryDisk):
    """Every byte of the disk is written to the copy."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        super().extract_image(target, format, compress=compress, progress=progress)
        with files.open_fd(target, os.O_RDWR) as out:
            os.posix_fallocate(out, 0, os.fstat(out).st_size)


@caught({"test_failing_commands_of_an_export": "fails"})
class SwallowsQemuImg(MemoryDisk):
    """What qemu-img says is logged."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        try:
            super().extract_image(target, format, compress=compress, progress=progress)
        except errors.CommandFailed:
            return


@caught({"test_instances_path_may_have_any_character": "qemu-img does not take"})
class JoinsOptionsWithCommas(RawDisk):
    """The tool takes its options in one string, and no path at hand had a comma."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        options = f"driver=raw,file.driver=file,file.filename={self.path}"
        argv = ["qemu-img", "convert", "--image-opts", "-O", format, options, str(target)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise errors.StorageError(f"qemu-img does not take {options}")
        progress("extract", 1, 1)
