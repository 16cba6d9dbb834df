"""A stand-in for Keystone's middleware in the Glance lab: tokens are read, not checked."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class LabAuth:
    """``bad`` or no token: 401.  ``project:P``: a member of P.  Any other: an administrator."""

    def __init__(self, app: _App) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        token = unquote(environ.get("HTTP_X_AUTH_TOKEN", ""))
        if token in ("", "bad"):
            start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("Content-Length", "6")])
            return [b"Who?\r\n"]
        project = token.removeprefix("project:")
        roles = "member,reader" if project != token else "admin,member,reader"
        environ.update(
            HTTP_X_IDENTITY_STATUS="Confirmed", HTTP_X_USER_ID="lab", HTTP_X_PROJECT_ID=project, HTTP_X_ROLES=roles
        )
        return self._app(environ, start_response)


def factory(_conf: dict[str, str], **_local: str) -> type[LabAuth]:
    """For paste.deploy."""
    return LabAuth
