"""The config drive: what a guest is told, as a small ISO 9660 file system.

Two layouts at once: OpenStack's (``openstack/latest``, https://docs.openstack.org/nova:
"config drive") and that of cloud-init's NoCloud data source (``meta-data``, ``user-data``,
https://docs.cloud-init.io).  Which of them a guest looks for is told by the label.
"""

import contextlib
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

from imgbackend.errors import ConfigError
from imgbackend.guest.spec import ConfigDrive, InstanceSpec
from imgbackend.types import Progress, Role

_VERSIONS: Final = ("latest", "2018-08-27")
"""Folders of OpenStack's layout: the newest that this one is like, by its date."""


class ConfigDriveImage:
    """Makes the config drive of an instance: a :class:`~imgbackend.types.FetchFunc` of a private template."""

    role: Role = "private"
    declared = None

    def __init__(self, spec: InstanceSpec, drive: ConfigDrive) -> None:
        """Keep what is to be told; ``drive`` is the spec's."""
        self._spec, self._drive = spec, drive

    def __call__(self, target: Path, progress: Progress, /) -> None:
        """Write the whole file system into the empty file ``target``, which only its owner reads.

        :raises ConfigError: if something that the guest is to be told cannot be said in JSON.
        """
        import pycdlib

        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=self._drive.label)
        try:
            tree = _Tree(iso)
            for path, content in contents(self._spec, self._drive):
                tree.add(path, content)
            with target.open("r+b") as file:
                iso.write_fp(file)
                progress("fetch", file.tell(), file.tell())
        finally:
            iso.close()


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files of these names that a config drive has; none where it is no drive as this module writes them.

    :raises OSError: if it cannot be read.
    """
    import pycdlib
    from pycdlib.pycdlibexception import PyCdlibException

    found: dict[str, bytes] = {}
    with path.open("rb") as file, contextlib.suppress(PyCdlibException):
        iso = pycdlib.PyCdlib()
        iso.open_fp(file)
        try:
            for name in names:
                content = io.BytesIO()
                with contextlib.suppress(PyCdlibException):  # it has no such file
                    iso.get_file_from_iso_fp(content, joliet_path=f"/{name}")
                    found[name] = content.getvalue()
        finally:
            iso.close()
    return found


def contents(spec: InstanceSpec, drive: ConfigDrive) -> Iterator[tuple[str, bytes]]:
    """The files of a config drive: paths without the leading slash, and bytes.

    :raises ConfigError: if something that the guest is to be told cannot be said in JSON.
    """
    files = {f"content/{number:04}": file for number, file in enumerate(spec.files)}
    told = _openstack(spec, drive, {name: file.path for name, file in files.items()})
    for version in _VERSIONS:
        yield f"openstack/{version}/meta_data.json", _json(told)
        if drive.user_data is not None:
            yield f"openstack/{version}/user_data", drive.user_data
        if drive.network_data is not None:
            yield f"openstack/{version}/network_data.json", _json(drive.network_data)
        yield f"openstack/{version}/vendor_data.json", _json(drive.vendor_data or {})
    for name, file in files.items():
        yield f"openstack/{name}", file.content
    yield "meta-data", _json(_nocloud(spec, drive))
    yield "user-data", drive.user_data or b""
    if drive.vendor_data is not None:
        yield "vendor-data", b"#cloud-config\n" + _json(drive.vendor_data)
    if drive.network_config is not None:
        yield "network-config", _json(drive.network_config)


def _openstack(spec: InstanceSpec, drive: ConfigDrive, files: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "uuid": spec.uuid,
        "name": spec.id,
        "hostname": spec.hostname,
        "launch_index": 0,
        "meta": dict(drive.metadata),
        "files": [{"content_path": f"/{name}", "path": path} for name, path in files.items()],
    }
    if drive.public_keys:
        told["public_keys"] = dict(drive.public_keys)
        told["keys"] = [{"type": "ssh", "name": name, "data": key} for name, key in drive.public_keys.items()]
    if spec.admin_password is not None:
        told["admin_pass"] = spec.admin_password
    return told


def _nocloud(spec: InstanceSpec, drive: ConfigDrive) -> dict[str, Any]:
    """As JSON, which is YAML too."""
    told: dict[str, Any] = {**drive.metadata, "instance-id": spec.uuid, "local-hostname": spec.hostname}
    if drive.public_keys:
        told["public-keys"] = list(drive.public_keys.values())
    return told


def _json(told: Any) -> bytes:
    try:
        return json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"config_drive: guests are told in JSON, which cannot say this ({exc}); quote it") from exc


class _Tree:
    """Files and folders of an ISO 9660 file system: short names; the real ones are Rock Ridge and Joliet."""

    def __init__(self, iso: Any) -> None:
        self._iso = iso
        self._short = {"": ""}

    def add(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        short = f"{self._folder(folder)}/F{len(self._short):05}.;1"
        self._short[path] = short
        self._iso.add_fp(io.BytesIO(content), len(content), short, rr_name=name, joliet_path=f"/{path}")

    def _folder(self, path: str) -> str:
        if path not in self._short:
            above, _, name = path.rpartition("/")
            short = f"{self._folder(above)}/D{len(self._short):05}"
            self._iso.add_directory(short, rr_name=name, joliet_path=f"/{path}")
            self._short[path] = short
        return self._short[path]
