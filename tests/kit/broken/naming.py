"""Drivers that take one name for another, and templates for what they are not."""

import os
from pathlib import Path

from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Way
from kit.faults import caught


@caught({"test_names_that_look_alike_are_told_apart": "other ones from sector 0"})
class JoinsNamesWithADash(MemoryDisk):
    """Both parts may have a dash in them."""

    @property
    def path(self) -> Path:
        return self.backend.folder / f"{self.id.instance}-{self.id.name}".replace(".", "-")


@caught({"test_names_that_look_alike_are_told_apart": "other ones from sector 0"})
class IgnoresCase(MemoryDisk):
    """The array's names have small letters only."""

    @property
    def path(self) -> Path:
        return self.backend.folder / super().path.name.lower()


@caught({"test_every_name_of_a_disk": "other ones from sector 0"})
class IgnoresSuffixes(MemoryDisk):
    """A disk's name has two parts, as far as the author ever saw."""

    @property
    def path(self) -> Path:
        return self.backend.folder / f"{self.id.instance}_{'.'.join(self.id.name.split('.')[:2])}"


@caught({"test_longest_name": "other ones from sector 0"})
class CutsNames(MemoryDisk):
    """The array's names have 64 characters at most."""

    @property
    def path(self) -> Path:
        return self.backend.folder / super().path.name[:64]


@caught({"test_bases_that_are_private_stay_so": "os.stat(source.path).st_mode & 0o077 == 0"})
class ShowsSecrets(MemoryDisk):
    """A config drive is a disk as all others."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        self.path.chmod(0o640)
        return way


@caught({"test_generated_template_gives_a_disk": "trial.expect(disk, whole + bytes(size - len(whole)))"})
class ForgetsWhatWasGenerated(MemoryDisk):
    """The file is made anew for each disk, whatever was put there by ``prepare_template``."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        if not base.generated:
            return super().create_image(prepare_template, base, size)
        info = prepare_template(self.unfinished)
        with files.new_file(self.unfinished) as target:
            os.ftruncate(target, info.virtual_size)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "generate"
