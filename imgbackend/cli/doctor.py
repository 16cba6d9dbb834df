"""``imgbackend doctor``: is this host fit, and if not, what is to be done?"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from imgbackend.cli.base import Lister
from imgbackend.cli.doctor_folders import folders
from imgbackend.cli.doctor_host import identities, tools
from imgbackend.cli.doctor_sharing import sharing
from imgbackend.cli.doctor_storage import shared_storage_findings
from imgbackend.cli.doctor_stores import stores
from imgbackend.cli.doctor_versions import versions
from imgbackend.cli.findings import worst
from imgbackend.errors import ConfigError
from imgbackend.types import Finding


class Doctor(Lister):
    """Check this host: tools, permissions, storage, configuration.

    Nothing is changed.  The status is 1 if a check finds an error.
    """

    columns = ("check", "verdict", "found", "advice")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--online", action="store_true", help="also ask the sources whether they answer")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Run every check; the report says what could not be looked at."""
        findings = [*tools(), *self._configured(online=parsed_args.online)]
        self.status = 1 if worst(findings) == "error" else 0
        rows = [(finding.check, finding.verdict, finding.found, finding.advice) for finding in findings]
        return self.columns, rows

    def _configured(self, *, online: bool) -> Iterator[Finding]:
        try:
            with self.engine() as engine:
                conf = engine.conf
                read = ", ".join(conf.config_file or ()) or "no file; the defaults hold"
                yield Finding("configuration", "ok", read)
                yield from identities(conf)
                yield from folders(engine.host.instances, engine.host.bases, group=conf.hypervisor_group)
                yield from sharing(engine)
                yield from versions(engine)
                host, lease = engine.host, conf.image_cache.lease_seconds
                yield from shared_storage_findings(host.instances, host.bases, lease=lease)
                yield from stores(engine, online=online)
        except ConfigError as exc:
            yield Finding("configuration", "error", str(exc), "correct it; the other checks need it")
