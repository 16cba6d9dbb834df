"""What imgbackend of folder format 1 leaves in a folder: it knows no owners, and what it writes of others loses them.

Each function writes what that version's own code wrote, key for key, so that no copy of it is needed.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


def older_pass(instances: Path, name: str) -> dict[str, float]:
    """Register a pass of a host, as its ``cache/hosts.py`` did; the entries that it then had."""
    path = instances / "compute_nodes"
    known = json.loads(path.read_bytes()) if path.exists() else {}
    found = {each: float(seen) for each, seen in known.items() if isinstance(seen, int | float)}
    found[name] = time.time()
    _replace(path, found)
    return found


def older_record(instances: Path, instance: str, disk: str) -> None:
    """Note a disk of an instance, as its ``records.py`` did."""
    path = instances / instance / "disks.json"
    path.parent.mkdir(exist_ok=True)
    disks = json.loads(path.read_bytes())["disks"] if path.exists() else {}
    record = {"backend": "raw", "driver": "raw", "format": "raw", "way": "copy", "time": time.time()}
    _replace(path, {"version": 1, "disks": disks | {disk: record}})


def _replace(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content))
    os.rename(temporary, path)
