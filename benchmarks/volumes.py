"""Disks that are logical volumes, against Nova's driver lvm, both inside LVM's lab.

Where there is no LVM, the lab is a kernel that is a process, in which all takes several
times as long as outside; so this program runs in there too, as
``python -m benchmarks.volumes SETTINGS``, and writes its figures to a file.  A fork of
either side's process would take longest there: both start theirs without one.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.measuring import Call, Processes, take_turns
from benchmarks.peer import Peer, running
from benchmarks.results import Case, Skipped
from benchmarks.sizes import against_nova, compared
from benchmarks.workshop import FULL, QUICK, Workshop, folder_at
from imgbackend.types import Mi, base_name
from labs.quick import start_quickly

_ROOT: Final = Path(__file__).parents[1]
_LAB: Final = _ROOT / "tests" / "labs" / "lvm-lab.sh"
_NO_LAB: Final = 125
_SECONDS: Final = 3000
_THIN, _THICK = 5, 3
"""Repeats: in the lab each takes minutes."""
_SETTINGS: Final = {"LVM_LAB_SIZE": "32G", "LVM_LAB_POOL_SIZE": "12G", "LVM_LAB_MEM": "4G"}
"""Room for a copy of the largest, and, in a file system of 8 GB, for the images and Nova's bases."""
_MORE: Final = 256 * Mi
"""What a disk is larger than its image."""
_NOVA: Final = "Nova 34: lvcreate, qemu-img convert"


def further(shop: Workshop, peer: Peer | None, sizes: Sequence[int], *, thin: bool) -> Case:
    """A further disk of a cached image: ours in a thin pool, or without one; Nova's always a copy."""
    told = shop.folder / "volumes.json"
    settings = {
        "thin": thin,
        "quick": shop.size is QUICK,
        "sizes": list(sizes),
        "nova": str(peer.python) if peer is not None else None,
        "told": str(told),
    }
    inside = [str(_LAB), "env", f"--chdir={_ROOT}", sys.executable, "-m", "benchmarks.volumes", json.dumps(settings)]
    env = {**os.environ, **_SETTINGS, "LVM_LAB_TIMEOUT": str(_SECONDS)}
    done = subprocess.run(
        inside, cwd=shop.folder, env=env, capture_output=True, text=True, timeout=_SECONDS + 60, check=False
    )
    if done.returncode == _NO_LAB:
        raise Skipped(f"no LVM could be started: {done.stderr.strip().rpartition(chr(10))[2]}")
    if done.returncode:
        raise RuntimeError(f"inside LVM's lab it ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    found = report.read(json.loads(told.read_text()))
    told.unlink()
    return found


def _measured(settings: dict[str, Any], shop: Workshop) -> Case:
    group, thin, sizes = os.environ["LVM_LAB_VG"], settings["thin"], settings["sizes"]
    pool = os.environ["LVM_LAB_POOL"] if thin else ""
    ours = {"images_type": "lvm", "lvm.volume_group": group, "lvm.thin_pool": pool, "lvm.volume_clear": "none"}
    with shop.engine(ours) as engine, _nova(settings["nova"], group, shop) as nova:
        calls: list[tuple[str, Call]] = []
        for size in sizes:
            source, told = shop.source(size=size), f"{size // Mi} MiB"
            image = engine.image(str(source))
            calls.append((f"imgbackend, {told}", shop.disk(engine, image, image.filename, size + _MORE)))
            if nova is not None:
                made = nova.disk("lvm", source, base_name(f"image of {size}"), size + _MORE)
                calls.append((f"{_NOVA}, {told}", made))
        series = take_turns(calls, shop.size.few if shop.size is QUICK else _THIN if thin else _THICK)
    return Case(
        title=f"further lvm disk, {'in a thin pool' if thin else 'without a thin pool, for comparison'}",
        series=series,
        targets=against_nova(series, sizes, 10) if thin else (),
        notes=[
            "Both sides run inside LVM's lab, where all takes several times as long as outside, "
            "and start their processes without a fork.",
            *compared(series, sizes),
        ],
    )


@contextlib.contextmanager
def _nova(python: str | None, group: str, shop: Workshop) -> Iterator[Peer | None]:
    if python is None:
        yield None
        return
    with running(
        Path(python), shop.folder, {"images_volume_group": group, "volume_clear": "none"}, quickly=True
    ) as nova:
        yield nova


def main(words: Sequence[str]) -> None:
    """Measure, inside the lab."""
    settings: dict[str, Any] = json.loads(words[0])
    start_quickly()
    with folder_at(Path(os.environ["TMPDIR"])) as folder:
        case = _measured(settings, Workshop(folder, QUICK if settings["quick"] else FULL, Processes()))
    Path(settings["told"]).write_text(json.dumps(report.told(case)))


if __name__ == "__main__":
    main(sys.argv[1:])
