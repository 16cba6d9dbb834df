"""Whether what a call did survives a power cut: told by the order of its steps.

A file's bytes are on stable storage when the file was flushed, its name when its folder was.
"""

import os
from collections.abc import Iterable, Sequence

from imgbackend.testing import steps
from imgbackend.testing.steps import Step


def expect_before_renames(seen: Sequence[Step]) -> None:
    """Assert that each file is flushed, whole, before it gets its name, and its folder after that."""
    for number, step in enumerate(seen):
        if step.name not in steps.RENAMES or os.path.isdir(step.to):
            continue
        before = seen[:number]
        flushed = [at for at, each in enumerate(before) if each.name in steps.FLUSHES and each.path == step.path]
        written = [at for at, each in enumerate(before) if each.name in steps.WRITES and each.path == step.path]
        assert flushed, f"{step.path} is not flushed before it is renamed to {step.to}"
        assert flushed[-1] > max(written, default=-1), f"{step.path} is written to after it was flushed"
        assert _flushed(os.path.dirname(step.to), seen[number:]), (
            f"the new name {step.to} is not flushed: its folder is not"
        )


def expect_after_writes(seen: Sequence[Step]) -> None:
    """Assert that each file that is still there was flushed after it was written to."""
    last = {step.path: step for step in seen if step.name in steps.WRITES | steps.FLUSHES}
    for path, step in last.items():
        assert step.name in steps.FLUSHES or not os.path.exists(path), f"{step} is not flushed"


def expect_after_removals(seen: Sequence[Step], gone: Iterable[str]) -> None:
    """Assert of the paths ``gone``, which were there before, that the folder each was in is flushed.

    Of a folder that went with all that was in it, only the folder's own name has to be.  What a
    command removed is not seen here, and is that command's to flush.
    """
    for path in sorted(gone):
        name = path
        while not os.path.isdir(os.path.dirname(name)):
            name = os.path.dirname(name)
        removed = [at for at, step in enumerate(seen) if step.name in steps.REMOVALS and step.path == name]
        folder = os.path.dirname(name)
        assert not removed or _flushed(folder, seen[removed[-1] :]), (
            f"{name} is removed, and comes back after a power cut: its folder {folder} is not flushed"
        )


def expect_of_new_folders(seen: Sequence[Step], others: Iterable[str]) -> None:
    """Assert of each folder that was made and is there, but for the paths ``others``, that its name is flushed."""
    for number, step in enumerate(seen):
        if step.name != "os.mkdir" or step.path in others or not os.path.isdir(step.path):
            continue
        folder = os.path.dirname(step.path)
        assert _flushed(folder, seen[number:]), f"the new folder {step.path} is not flushed: {folder} is not"


def _flushed(folder: str, after: Sequence[Step]) -> bool:
    return any(step.name in steps.FLUSHES and step.path == folder for step in after)
