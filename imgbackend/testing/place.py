"""A backend to be tried: opened, attached to an engine's parts, on a folder of its own."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from imgbackend import errors
from imgbackend.bases.store import Bases
from imgbackend.config import options
from imgbackend.disks.owners import Owners
from imgbackend.disks.record_binding import Binding
from imgbackend.driver.attached import Attached
from imgbackend.driver.contract import Backend
from imgbackend.engine import Engine
from imgbackend.system.host import Host

NAME = "tried"
"""The name of the section of a backend that :func:`conforming` makes."""

BackendT = TypeVar("BackendT", bound=Backend)


@contextlib.contextmanager
def conforming(
    kind: type[BackendT],
    folder: Path,
    own: Mapping[str, object] | None = None,
    *,
    engine: Mapping[str, object] | None = None,
) -> Iterator[BackendT]:
    """A backend of that class, open, with an ``instances_path`` of its own in ``folder``.

    ``own`` are options of the driver's section, ``engine`` those of the engine, such as
    ``{"force_raw_images": False}``.  A store that is made of files is best put into
    ``folder`` too: the kit then sees what a driver leaves behind in it.

    :raises ConfigError: if an option is unknown, or cannot have this value.
    """
    instances = folder / "instances"
    with Engine.from_config([], {"instances_path": str(instances), **(engine or {})}) as made:
        opts = options.backend_opts(NAME, NAME, kind.opts)
        options.register(made.conf, NAME, opts)
        for key, value in (own or {}).items():
            if not options.override(made.conf, f"{NAME}.{key}", value):
                raise errors.ConfigError(f"{kind.__name__} has no option {key}")
        options.check(made.conf, NAME, opts)
        chosen = cast("type[BackendT]", kind.for_options(made.conf[NAME]))
        backend = attached(chosen(NAME, made.conf[NAME], made.host), NAME)
        with backend:
            yield backend


@contextlib.contextmanager
def again(backend: BackendT, host: Host | None = None) -> Iterator[BackendT]:
    """Another backend of the same configuration, as another process has it; open.

    ``host``: with a host of its own, that has other settings, or fails on purpose.
    """
    made = type(backend)(backend.name, backend.conf, host or Host(backend.host.settings))
    with attached(made, backend.driver):
        yield made


def attached(backend: BackendT, driver: str) -> BackendT:
    """The same backend, with what an engine gives to its own; not opened."""

    def found(name: str | None) -> Backend:
        if name not in (None, backend.name):
            raise errors.ConfigError(f"there is no backend {name} here")
        return backend

    binding = Binding(backend.host, found, lambda name: name or backend.name)
    backend.attach(driver, Attached(bases=Bases(backend.host), owners=Owners(backend.host), bind=binding.record_of))
    return backend
