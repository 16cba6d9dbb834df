"""Nova's own code on an ``instances_path``, told over a pipe what to do.

Runs in the virtual environment that Nova is in.  Each line of standard input is a request
in JSON, each line of standard output its answer.  No code of Nova is changed; what stands
in for its surroundings: images are local files, the privileged helper runs in this process.
"""

import importlib
import json
import os
import shutil
import sys
from typing import Any

CONF = importlib.import_module("nova.conf").CONF
CONF([], project="nova", default_config_files=[])
importlib.import_module("nova.privsep").sys_admin_pctxt.set_client_mode(False)
imagebackend = importlib.import_module("nova.virt.libvirt.imagebackend")
imagecache = importlib.import_module("nova.virt.libvirt.imagecache")
libvirt_utils = importlib.import_module("nova.virt.libvirt.utils")
images: Any = importlib.import_module("nova.virt.images")

_BACKENDS = {"qcow2": imagebackend.Qcow2, "flat": imagebackend.Flat}


class Instance(dict[str, Any]):
    """What the file backends need of Nova's Instance."""

    def __init__(self, uuid: str) -> None:
        super().__init__()
        self.uuid = uuid


class Files:
    """Nova's image service, with files of this host for images: ``id -> (path, disk_format)``."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[str, str]] = {}

    def get(self, _context: Any, image_id: str) -> dict[str, Any]:
        return {"id": image_id, "disk_format": self.known[image_id][1], "container_format": "bare"}

    def download(self, _context: Any, image_id: str, dest_path: str, **_more: Any) -> None:
        shutil.copyfile(self.known[image_id][0], dest_path)


images.IMAGE_API = Files()


def image(id: str, path: str, disk_format: str) -> None:
    images.IMAGE_API.known[id] = (path, disk_format)


def disk(
    backend: str, instance: str, name: str, image_id: str, size: int | None, force_raw: bool = True, boot: bool = False
) -> dict[str, Any]:
    """Make a disk, as Nova's driver does; a kernel is fetched as it is."""
    CONF.set_override("force_raw_images", force_raw)
    os.makedirs(os.path.join(CONF.instances_path, instance), exist_ok=True)
    made = _BACKENDS[backend](instance=Instance(instance), disk_name=name)
    fetch = libvirt_utils.fetch_raw_image if boot else libvirt_utils.fetch_image
    fname = imagecache.get_cache_fname(image_id)
    made.cache(fetch_func=fetch, context=None, filename=fname, size=size, image_id=image_id)
    return {"path": made.path, "format": made.driver_format, "base": fname}


def swap(backend: str, instance: str, mib: int) -> dict[str, Any]:
    """A swap disk, by the base that Nova generates for it."""
    made = _BACKENDS[backend](instance=Instance(instance), disk_name="disk.swap")

    def make(target: str, swap_mb: int, **_more: Any) -> None:
        libvirt_utils.create_image(target, "raw", f"{swap_mb}M")

    made.cache(fetch_func=make, context=None, filename=f"swap_{mib}", size=mib << 20, swap_mb=mib, safe=True)
    return {"path": made.path, "format": made.driver_format, "base": f"swap_{mib}"}


def look(backend: str, instance: str, name: str) -> dict[str, Any]:
    """What Nova takes a disk for."""
    found = _BACKENDS[backend](instance=Instance(instance), disk_name=name)
    return {"format": found.driver_format, "size": found.get_disk_size(found.path), "exists": found.exists()}


def options(file: str, names: list[tuple[str, str]]) -> list[Any]:
    """What Nova reads in a file for ``(group, option)``."""
    kept = CONF.instances_path
    CONF.clear_override("instances_path")
    CONF.clear_override("force_raw_images")
    try:
        CONF([], project="nova", default_config_files=[file])
        return [getattr(CONF if group == "DEFAULT" else CONF[group], name) for group, name in names]
    finally:
        CONF([], project="nova", default_config_files=[])
        CONF.set_override("instances_path", kept)


def place(path: str) -> None:
    CONF.set_override("instances_path", path)
    os.makedirs(os.path.join(path, "_base"), exist_ok=True)


def manage_cache() -> None:
    """A pass of Nova's cache manager, where Nova's database knows no instance."""
    found = importlib.import_module("nova.objects.block_device").BlockDeviceMappingList
    found.bdms_by_instance_uuid = lambda _context, _uuids: {}
    imagecache.ImageCacheManager().update(None, [])


def register(host: str, times: int = 1) -> None:
    """What each pass of Nova does first."""
    users = importlib.import_module("nova.virt.storage_users")
    for _ in range(times):
        users.register_storage_use(CONF.instances_path, host)


def storage_users() -> list[str]:
    """The hosts that Nova takes to share the folder."""
    users: list[str] = importlib.import_module("nova.virt.storage_users").get_storage_users(CONF.instances_path)
    return users


def main() -> None:
    calls = (image, disk, swap, look, options, place, manage_cache, register, storage_users)
    verbs: dict[str, Any] = {call.__name__: call for call in calls}
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever Nova prints is no answer
    for line in sys.stdin:
        request = json.loads(line)
        verb = verbs[request.pop("verb")]
        try:
            answer: dict[str, Any] = {"is": verb(**request)}
        except Exception as exc:
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), file=answers)


main()
