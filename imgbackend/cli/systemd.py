"""What a service tells systemd, by the protocol of sd_notify(3): a datagram of ``NAME=value`` lines.

Where the process was not started by systemd (there is no ``NOTIFY_SOCKET``), nothing is told.
"""

import contextlib
import math
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000


class Notifier:
    """The way to the service's own systemd."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Nothing is told yet."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.every = self._watched(environment) / 2
        """Seconds between two signs of life, of which every second one may be missed; infinite: nobody watches."""

    @staticmethod
    def _watched(environment: Mapping[str, str]) -> float:
        told, here = environment.get("WATCHDOG_USEC", ""), str(os.getpid())
        watched = told.isdecimal() and int(told) > 0 and environment.get("WATCHDOG_PID", here) == here
        return int(told) / _MICROSECONDS if watched else math.inf

    def ready(self, status: str) -> None:
        """It works, or works again after :meth:`reloading`."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, line: str) -> None:
        """What ``systemctl status`` shows."""
        self._tell(f"STATUS={line}")

    def alive(self) -> None:
        """A sign of life, for the watchdog."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """It ends because it was told to."""
        self._tell("STOPPING=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),  # whoever started it listens no more: no reason to end
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as way,
        ):
            way.sendto(text.encode(), self._address)
