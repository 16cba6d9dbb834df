"""Options that a caller sets, each as soon as there is an option of its name.

The engine's own options are there at once, a backend's when its driver is loaded, a source's
when it is made; and what a plugin of a source reads is known only when other options say
which plugin that is.  None is left out without a word: what nobody has is refused by its name.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from oslo_config import cfg

from imgbackend import errors
from imgbackend.config import options, plugins
from imgbackend.sources.contract import Source


class Overrides:
    """Options as ``section.option``, or ``option`` for one of ``[DEFAULT]``."""

    def __init__(self, conf: cfg.ConfigOpts, told: Mapping[str, Any]) -> None:
        """Set those whose options are known, and keep the others.

        :raises ConfigError: if a section of the engine's own has no such option, or one has a value that it
            cannot have.
        """
        self._conf = conf
        self._waiting = {key: value for key, value in told.items() if not options.override(conf, key, value)}
        self.sections = frozenset(map(_section, self._waiting))
        """Those of options that are not the engine's own."""
        for key in self._waiting:
            if _section(key) in options.GROUPS.keys() - {Source.group}:
                raise errors.ConfigError(f"there is no option {key}")

    def check(self, is_backend: Callable[[str], bool]) -> None:
        """See that somebody reads each section.

        :raises ConfigError: if there is neither a backend nor a source that does.
        """
        for section in sorted(self.sections - options.RESERVED):
            if is_backend(section):
                continue
            for kind in _sources():
                self._known_to(kind)
            left = self._left(section)
            if left:
                raise errors.ConfigError(
                    f"there is no option {left[0]}: [{section}] is no backend; for one, set {section}.driver too"
                )

    def driver_of(self, backend: str) -> Any:
        """What is set as the driver of a backend; None: nothing, or it is set by now."""
        return self._waiting.get(f"{backend}.driver")

    def set_for_backend(self, name: str, known: Collection[str]) -> None:
        """Set a backend's options, which are ``known`` by now.

        :raises ConfigError: if one is none of them, or has a value that it cannot have.
        """
        self._set(name)
        self._refuse(self._left(name), known)

    def set_for_source(self, kind: type[Source]) -> None:
        """Make a source's options known, and set them.

        :raises ConfigError: if one is neither its own nor another source's of this section, or has a value that it
            cannot have.
        """
        self._known_to(kind)
        left = self._left(kind.group)
        if left:
            known = {opt.dest for other in _sources() if other.group == kind.group for opt in other.opts}
            self._refuse([key for key in left if _name(key) not in known], known)

    def _known_to(self, kind: type[Source]) -> None:
        options.register(self._conf, kind.group, kind.opts)
        self._set(kind.group)
        while self._waiting:  # a plugin may be named by what is set here, in a section that is named so too
            further = kind.further_opts(self._conf)
            for section, opts in further.items():
                options.register(self._conf, section, opts)
            if not [section for section in further if self._set(section)]:
                return

    def _set(self, section: str) -> bool:
        """Set what can be set of a section; whether that was anything."""
        done = [key for key in self._left(section) if options.override(self._conf, key, self._waiting[key])]
        for key in done:
            del self._waiting[key]
        return bool(done)

    def _left(self, section: str) -> list[str]:
        return [key for key in self._waiting if _section(key) == section]

    @staticmethod
    def _refuse(left: list[str], known: Collection[str]) -> None:
        if left:
            raise errors.ConfigError(f"there is no option {left[0]}; there are: {', '.join(sorted(known))}")


def _section(key: str) -> str:
    return key.rpartition(".")[0] or "DEFAULT"


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _sources() -> Iterator[type[Source]]:
    """The classes of all sources that can be imported."""
    found = []
    for name in dict.fromkeys(source.name for source in plugins.drivers(plugins.SOURCES)):
        with contextlib.suppress(errors.ConfigError):  # told to whoever asks for that one
            found.append(plugins.load_source(name))
    yield from dict.fromkeys(found)
