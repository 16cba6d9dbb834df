"""What was measured on: without it the figures say little."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def facts(folder: Path) -> dict[str, str]:
    """Of this machine, and of the file system of ``folder``."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = os.getloadavg()
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "load when it began": f"{load[0]:.2f} (1 minute), {load[1]:.2f} (5 minutes)",
        "kernel": platform.release(),
        "file system": _last_line("df", "--output=fstype", str(folder)),
        "Python": platform.python_version(),
        "qemu-img": _first_line("qemu-img", "--version").removeprefix("qemu-img version "),
        "coreutils": _first_line("cp", "--version").rpartition(" ")[2],
        "imgbackend": version("imgbackend"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*command: str) -> str:
    return _lines(*command)[0]


def _last_line(*command: str) -> str:
    return _lines(*command)[-1]


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()
