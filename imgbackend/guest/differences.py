"""What an instance has, and what is asked for: another one is not silently taken for it."""

import json
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend.guest.config_drive import contents, read_files
from imgbackend.guest.spec import InstanceSpec
from imgbackend.types import Ki, Mi

_UNITS: Final = {"b": 1, "bytes": 1, "KiB": Ki, "k": Ki, "MiB": Mi, "M": Mi, "GiB": 1024 * Mi, "G": 1024 * Mi}
_META_DATA: Final = "openstack/latest/meta_data.json"
_USER_DATA: Final = "openstack/latest/user_data"
_ASKED: Final = {"public_keys": "the ssh keys", "meta": "the metadata", "hostname": "the hostname"}
"""Keys of the config drive's meta data, which are told with what they are in an error."""


def of_domains(had: str, asked: str) -> dict[str, tuple[str, str]]:
    """In what two XMLs of a domain differ for its guest: both values, by what they are."""
    before, after = _facts(had), _facts(asked)
    return {what: (before[what], value) for what, value in after.items() if before[what] != value}


def _facts(xml: str) -> dict[str, str]:
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own answer, or ours
    memory = root.find("memory")
    size = int(memory.text or 0) * _UNITS[memory.get("unit", "KiB")] if memory is not None else 0
    return {
        "memory": f"{-(-size // Mi)}M",  # a hypervisor rounds it up to that
        "vcpus": root.findtext("vcpu") or "1",
        "nics": ", ".join(_nic(interface) for interface in root.iterfind("devices/interface")) or "none",
    }


def _nic(interface: ET.Element) -> str:
    kind, source = interface.get("type", ""), interface.find("source")
    name = source.get(kind) if source is not None else None
    return f"{kind}:{name}" if name else kind


def of_config_drive(path: Path, spec: InstanceSpec) -> list[str]:
    """What of a spec is otherwise on the config drive that is there: a line for each; secrets are only named.

    What the spec does not say is not asked for.

    :raises OSError: if the drive cannot be read.
    """
    if spec.config_drive is None:
        return []
    kept = read_files(path, (_META_DATA, _USER_DATA))
    asked = dict(contents(spec, spec.config_drive))
    before, after = json.loads(kept.get(_META_DATA, b"{}")), json.loads(asked[_META_DATA])
    found = [
        f"{what} {before.get(key)}, not {after[key]}"
        for key, what in _ASKED.items()
        if after.get(key) and before.get(key) != after[key]
    ]
    if spec.admin_password is not None and before.get("admin_pass") != spec.admin_password:
        found.append("another password than the one given")
    if spec.config_drive.user_data is not None and kept.get(_USER_DATA) != spec.config_drive.user_data:
        had = kept.get(_USER_DATA)
        sizes = f"{len(had)} bytes" if had is not None else "none"
        found.append(f"other user data ({sizes}) than the one given ({len(spec.config_drive.user_data)} bytes)")
    return found
