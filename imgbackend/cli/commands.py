"""The table of commands: names, what they do, and where they are, without importing them."""

from importlib.metadata import EntryPoint
from typing import Final, TextIO

from cliff.commandmanager import CommandManager

GROUP: Final = "imgbackend.cli"

TABLE: Final[dict[str, tuple[str, str]]] = {
    "backend list": ("backend:List", "List backends and installed drivers, and whether they work on this host"),
    "backend show": (
        "backend:Show",
        "Show a backend: what it can do, whose it is, and whether it works on this host, or why not",
    ),
    "image list": ("image:List", "List the images that the sources offer"),
    "image show": ("image:Show", "Show what a source says of an image"),
    "disk create": ("disk:Create", "Make a disk of an image, or see that it is there"),
    "disk list": ("disk:List", "List disks"),
    "disk show": ("disk:Show", "Show a disk and the record of how it was made"),
    "disk resize": ("disk:Resize", "Grow a disk; no disk is ever shrunk"),
    "disk delete": ("disk:Delete", "Delete a disk; one that is absent is no error"),
    "disk export": ("disk:Export", "Write a disk into a new file"),
    "disk flatten": ("disk:Flatten", "Make a disk independent of its base"),
    "disk snapshot create": ("snapshot:Create", "Take a snapshot of a disk"),
    "disk snapshot list": ("snapshot:List", "List the snapshots of a disk"),
    "disk snapshot rollback": ("snapshot:Rollback", "Take a disk back to a snapshot"),
    "disk snapshot delete": ("snapshot:Delete", "Delete a snapshot of a disk"),
    "instance spawn": ("instance:Spawn", "Make an instance's disks, start it, and wait until it runs"),
    "instance list": ("instance:List", "List instances"),
    "instance show": ("instance:Show", "Show an instance and its disks; -c xml shows how libvirt has it"),
    "instance start": ("instance_life:Start", "Start an instance that is off; one that runs is no error"),
    "instance stop": ("instance_life:Stop", "Have the guest shut itself down; end it where it does not"),
    "instance reboot": ("instance_life:Reboot", "Boot an instance again"),
    "instance destroy": (
        "instance_life:Destroy",
        "Take an instance away: domain, disks and folder; calling again goes on where a call was cancelled",
    ),
    "instance release": (
        "instance_life:Release",
        "Give an instance that is off away, for another host to take; its disks stay",
    ),
    "instance take": ("instance_life:Take", "Make an instance that another host released this host's"),
    "instance console": ("instance_life:Console", "Print what a guest said on its serial console"),
    "cache list": ("cache:List", "List the base images that disks are made from, in the base folder and in stores"),
    "cache show": ("cache:Show", "Show a base image, and the disks that hang on it"),
    "cache usage": ("cache:Usage", "Show how much room the base images take, in the base folder and in each store"),
    "cache prefetch": ("cache_prefetch:Prefetch", "Fetch images into the cache before a disk wants them"),
    "cache pin": ("cache:Pin", "Keep a base image, used or not"),
    "cache unpin": ("cache:Unpin", "Let a base image go again when nothing uses it"),
    "cache verify": ("cache_verify:Verify", "Compare the bytes of base images with their digests; put bad ones aside"),
    "cache leftovers": ("cache_leftovers:Leftovers", "List what killed calls left behind, or remove it"),
    "cache prune": ("cache:Prune", "Remove the base images that nothing needs, and what killed calls left behind"),
    "cache run": (
        "cache_run:Run",
        "Look after the cache until told to stop: a pass every manager_interval seconds",
    ),
    "cache hosts take-over": (
        "cache_hosts:TakeOver",
        "Make all instances of a host that is no more, or has another name now, this host's",
    ),
    "cache hosts": (
        "cache_hosts:Hosts",
        "List the hosts that share the base folder, when each made its last pass, and with which version",
    ),
    "doctor": ("doctor:Doctor", "Check this host: tools, permissions, storage, configuration"),
    "help": ("", "Show help, also of one command"),
    "complete": ("", "Print a script for the shell's completion of this command"),
}
"""``name: (module:class, one line)``; cliff brings ``help`` and ``complete`` itself."""


class Commands(CommandManager):
    """The commands of the table; each is imported when it is the one to run."""

    def __init__(self) -> None:
        super().__init__()
        for name, (target, _) in TABLE.items():
            if target:
                self.commands[name] = EntryPoint(name=name, value=f"{GROUP}.{target}", group=GROUP)


def write_commands(out: TextIO, only: str = "") -> None:
    """The table as people read it: all, or those whose names begin with the word ``only``."""
    width = max(len(name) for name in TABLE)
    out.write("commands:\n")
    for name, (_, line) in TABLE.items():
        if not only or name.split()[: len(only.split())] == only.split():
            out.write(f"  {name:<{width}}  {line}\n")
