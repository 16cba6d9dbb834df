"""The doctor's look at the configuration: its files, its backends, its sources."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbackend.cli.figures import human_size
from imgbackend.driver.abilities import Checkable
from imgbackend.errors import ConfigError, Error
from imgbackend.types import Finding

if TYPE_CHECKING:
    from imgbackend.engine import Engine


def stores(engine: "Engine", *, online: bool) -> Iterator[Finding]:
    """All that is to be said of them."""
    yield from _backends(engine)
    yield from _unknown_options(engine)
    for name in engine.source_names():
        yield _source(engine, name, online=online)


def _backends(engine: "Engine") -> Iterator[Finding]:
    """The one that new disks are made on, and every other that is configured; what they find themselves."""
    names = sorted(engine.configured())
    yield _backend(engine, None, f"images_type = {engine.conf.images_type}")
    for name in names:
        yield _backend(engine, name, f"backend {name}")
    looked: set[str] = set()
    for each in (None, *names):
        yield from _of_its_store(engine, each, looked)


def _backend(engine: "Engine", name: str | None, check: str) -> Finding:
    try:
        backend = engine.backend(name)
        capacity = backend.capacity()
    except ConfigError as exc:
        return Finding(check, "error", str(exc), "change the configuration, or see to what it names")
    except Error as exc:
        return Finding(check, "error", str(exc), "see to the storage")
    free = f"{human_size(capacity.free)} of {human_size(capacity.total)} free"
    return Finding(check, "ok", f"driver {backend.driver}, {free}")


def _of_its_store(engine: "Engine", name: str | None, looked: set[str]) -> Iterator[Finding]:
    """What a backend that can look into its store tells of it, once; one that cannot be opened was told of."""
    try:
        backend = engine.backend(name)
    except Error:
        return
    if not isinstance(backend, Checkable) or backend.name in looked:
        return
    looked.add(backend.name)
    try:
        for finding in backend.findings():
            yield dataclasses.replace(finding, check=f"{backend.name}: {finding.check}")
    except Error as exc:
        yield Finding(backend.name, "error", str(exc), "see to the storage")


def _unknown_options(engine: "Engine") -> Iterator[Finding]:
    """Options that nobody reads, in sections that are surely ours: those with ``driver = ``."""
    for file, section, names in _sections(engine):
        if "driver" not in names:
            continue
        try:
            backend = engine.backend(section)
        except Error:
            continue
        known = {"driver", *itertools.chain.from_iterable(_spellings(opt) for opt in type(backend).opts)}
        for name in sorted(names - known):
            advice = f"remove it; the driver {backend.driver} reads: {', '.join(sorted(known))}"
            yield Finding(f"{file}", "warning", f"[{section}] has an unknown option {name}", advice)


def _spellings(opt: Any) -> set[str]:
    return {opt.name, opt.dest, *(old.name for old in opt.deprecated_opts if old.name)}


def _sections(engine: "Engine") -> Iterator[tuple[Path, str, set[str]]]:
    from oslo_config import cfg

    for file in engine.conf.config_file or ():
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(file, sections).parse()
        for name, options in sections.items():
            yield Path(file), name, set(options)


def _source(engine: "Engine", name: str, *, online: bool) -> Finding:
    check = f"source {name}"
    try:
        source = engine.source(name)
        if not online:
            return Finding(check, "ok", "not asked; --online does")
        first = next(iter(source.images()), None)
    except ConfigError as exc:
        return Finding(check, "ok", f"not asked: {exc}")
    except Error as exc:
        return Finding(
            check, "error", str(exc), "see that it runs, and that this host reaches it with these credentials"
        )
    return Finding(check, "ok", "answers" if first is not None else "answers, and offers nothing")
