"""The base folder of another host, as a web server there serves it."""

from collections.abc import Iterator

from imgbackend.errors import SourceError
from imgbackend.sources.urls import parse
from imgbackend.sources.web import Answer, Web, refusal
from imgbackend.types import Mi

_LARGEST = Mi


class WebPlace:
    """A folder of a web server."""

    def __init__(self, url: str, web: Web) -> None:
        """Keep the folder's URL; nothing is asked.

        :raises ConfigError: if it is none.
        """
        self._url, self._web = url, web
        self.shown = parse(url).shown

    def small(self, name: str) -> bytes:
        """All of a small file.

        :raises ImageNotFound: if it is not there.
        :raises SourceError: if it cannot be had, or is not small.
        """
        body = self._asked(name)
        try:
            text = b""
            for chunk in body.read():
                text += chunk
                if len(text) > _LARGEST:
                    raise SourceError(f"{self.shown}/{name} has more than {_LARGEST} bytes; it is none of ours")
            return text
        finally:
            body.close()

    def open(self, name: str, _offset: int) -> "_WebBody":
        """The bytes of a file, from its beginning."""
        return _WebBody(self._asked(name))

    def _asked(self, name: str) -> Answer:
        answer = self._web.ask("GET", parse(f"{self._url}/{name}"))
        if (error := refusal(answer)) is not None:
            answer.close()
            raise error
        return answer


class _WebBody:
    """A :class:`~imgbackend.sources.stream.Body` of an answer."""

    start = 0

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def chunks(self) -> Iterator[bytes]:
        return self._answer.read()

    def close(self) -> None:
        self._answer.close()
