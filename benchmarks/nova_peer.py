"""The peer: Nova's own image backends, told over a pipe to make one disk at a time.

Runs in a virtual environment of its own, in which Nova is.  Each line of standard input is
a request in JSON, each line of standard output its answer.  No code of Nova is changed.
What is spared it: its privileged helper runs in this process, the instance is a stub, and
its image comes from a local file, copied in this process, or is in its own cluster already.
The arguments are its ``instances_path``, its options of the group ``libvirt`` in JSON, and,
where processes are to be started without a fork, the folder that ``labs.quick`` is in.
"""

import importlib
import json
import os
import resource
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

CONF = importlib.import_module("nova.conf").CONF
CONF([], project="nova", default_config_files=[])
importlib.import_module("nova.privsep").sys_admin_pctxt.set_client_mode(False)
imagebackend: Any = importlib.import_module("nova.virt.libvirt.imagebackend")
lvm = importlib.import_module("nova.virt.libvirt.storage.lvm")

_KINDS = {"qcow2": "Qcow2", "raw": "Flat", "lvm": "Lvm", "rbd": "Rbd", "clone": "Rbd"}
_WRAPPERS = ("oslo_concurrency.prlimit", "env")
_started = {"processes": 0, "programs": 0}


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        words = [str(word) for word in arguments[1]]
        _started["processes"] += 1
        # prlimit and env replace themselves by the next program of the line.
        _started["programs"] += 1 + sum(wrapper in words for wrapper in _WRAPPERS)


class Instance(dict[str, Any]):
    """What the backends need of Nova's Instance."""

    def __init__(self) -> None:
        super().__init__()
        self.uuid = str(uuid.uuid4())


class Images:
    """Nova's image service: every image is raw, and is at the location that is its id."""

    def get(self, _context: Any, image_id: str, **_more: Any) -> dict[str, Any]:
        return {"id": image_id, "disk_format": "raw", "locations": [{"url": image_id}]}


def fetch_from(source: str) -> Callable[..., None]:
    """A fetch function as cheap as a local file can be: holes kept, no process started."""

    def fetch(target: str, **_context: Any) -> None:
        with open(source, "rb") as reader, open(target, "wb") as writer:
            size = os.fstat(reader.fileno()).st_size
            os.truncate(writer.fileno(), size)
            at = 0
            while at < size:
                try:
                    start = os.lseek(reader.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at, end = start, os.lseek(reader.fileno(), start, os.SEEK_HOLE)
                while at < end:
                    at += os.copy_file_range(reader.fileno(), writer.fileno(), end - at, at, at)

    return fetch


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def make(request: dict[str, Any]) -> dict[str, float]:
    """Make a disk, and say what it took."""
    kind = getattr(imagebackend, _KINDS[request["kind"]])
    instance = Instance()
    folder = os.path.join(CONF.instances_path, instance.uuid)
    os.makedirs(folder)
    if request["first"]:
        base = os.path.join(CONF.instances_path, "_base", request["name"])
        if os.path.exists(base):
            os.unlink(base)
    before, cpu, at = dict(_started), cpu_seconds(), time.perf_counter()
    disk = kind(instance=instance, disk_name="disk")
    disk.cache(
        fetch_func=clone_to(disk) if request["kind"] == "clone" else fetch_from(request["source"]),
        filename=request["name"],
        size=request["size"],
        context=None,
        image_id=request["source"],
    )
    answer = {"seconds": time.perf_counter() - at, "cpu": cpu_seconds() - cpu}
    answer.update({name: _started[name] - before[name] for name in before})
    assert disk.get_disk_size(disk.path) == request["size"]
    remove(disk, request["kind"])
    shutil.rmtree(folder)
    return answer


def clone_to(disk: Any) -> Callable[..., None]:
    """What Nova's driver gives for a fetch function where the backend can clone, and the image allows it."""

    def clone(target: str, image_id: str, context: Any) -> None:
        assert not os.path.exists(target)
        disk.clone(context, image_id)

    return clone


def remove(disk: Any, kind: str) -> None:
    """What is not in the instance's folder; it is not measured."""
    if kind == "lvm":
        lvm.remove_volumes([disk.path])
    elif kind in ("rbd", "clone"):
        disk.driver.remove_image(disk.rbd_name)
        assert not disk.exists()


def main() -> None:
    CONF.set_override("instances_path", sys.argv[1])
    for name, value in json.loads(sys.argv[2]).items():
        CONF.set_override(name, value, group="libvirt")
    imagebackend.IMAGE_API = Images()
    if len(sys.argv) > 3:
        sys.path.append(sys.argv[3])
        importlib.import_module("labs.quick").start_quickly()
    os.makedirs(os.path.join(CONF.instances_path, "_base"), exist_ok=True)
    sys.addaudithook(_hear)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever Nova prints is no answer
    print(json.dumps({"nova": importlib.import_module("importlib.metadata").version("nova")}), file=answers)
    for line in sys.stdin:
        print(json.dumps(make(json.loads(line))), file=answers)


main()
