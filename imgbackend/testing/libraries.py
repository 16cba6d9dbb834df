"""Libraries written in C, whose work Python does not see: their calls become steps.

The module is replaced, where it is imported, by one that tells of each call before it is
made.  What its calls return is wrapped too, so that methods of its objects are told of.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

Tell = Callable[[str], None]

_PLAIN: Final = (int, float, str, bytes, bytearray, memoryview, bool, type(None), list, tuple, dict, set, frozenset)


class Wrapped:
    """Something of a library; its calls are told of."""

    def __init__(self, real: Any, name: str, tell: Tell) -> None:
        """Keep the real thing; ``name`` is what its steps are called by."""
        self._real, self._name, self._tell = real, name, tell

    def __getattr__(self, name: str) -> Any:
        return wrapped(getattr(self._real, name), f"{self._name}.{name}", self._tell)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._tell(self._name)
        real = self._real(*map(bare, arguments), **{key: bare(value) for key, value in options.items()})
        return wrapped(real, self._name, self._tell)

    def __enter__(self) -> "Wrapped":
        self._real.__enter__()
        return self

    def __exit__(self, *exc: object) -> Any:
        return self._real.__exit__(*exc)

    def __iter__(self) -> Any:
        return (wrapped(each, self._name, self._tell) for each in self._real)


def bare(value: Any) -> Any:
    """The real thing behind a wrapped one."""
    return value._real if isinstance(value, Wrapped) else value


def wrapped(real: Any, name: str, tell: Tell) -> Any:
    """As it is, where it cannot do anything; and errors, which are caught by their class."""
    if isinstance(real, (*_PLAIN, BaseException)):
        return real
    if isinstance(real, type) and issubclass(real, BaseException):
        return real
    return Wrapped(real, name, tell)


def wrap_library(real: ModuleType, tell: Tell) -> None:
    """Put a module's replacement wherever the module is known by now, and will be imported from."""
    replacement: Any = Wrapped(real, real.__name__, tell)
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is real and module is not sys.modules[__name__]:
                setattr(module, name, replacement)
    sys.modules[real.__name__] = replacement
