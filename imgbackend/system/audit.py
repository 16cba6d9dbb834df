"""One line of the log for each act that takes data away: who did what, on which host, to which object, and why.

The logger is ``imgbackend.audit``, the level INFO; a line is ``key=value`` pairs, strings in JSON.
"""

import functools
import json
import logging
import os
import pwd
from typing import Final

LOG: Final = logging.getLogger("imgbackend.audit")


def log(act: str, *, host: str, what: str, store: str, identity: str | None, why: str) -> None:
    """Note an act that was done.

    ``act`` is a word such as ``remove`` or ``rollback``; ``host`` is the option ``host``; ``what`` is the disk or base,
    ``store`` the backend that keeps it; ``identity`` is that of the very object, None where nobody noted it.
    """
    LOG.info(
        "act=%s user=%s host=%s what=%s store=%s identity=%s why=%s",
        *(act, _user(os.geteuid()), json.dumps(host), json.dumps(what), json.dumps(store)),
        *(identity or "unknown", json.dumps(why)),
    )


@functools.cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
