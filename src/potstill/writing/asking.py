"""One request, again and again until it is answered: exponential waits with jitter, Retry-After, a rate that all threads share."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TypeVar
from urllib.error import HTTPError, URLError

from potstill.errors import ServerError
from potstill.writing.replies import MalformedError

Found = TypeVar("Found")
_AGAIN = {408, 409, 425, 429, *range(500, 600)}
# The server says that this one request is wrong: too long, say. Others may be right.
_NOT_THIS_ONE = {400, 413, 422}
_LONGEST_WAIT, _LONGEST_TOLD_WAIT = 60.0, 600.0


@dataclass(frozen=True)
class Server:
    """Where it is, and how patient we are.

    url                  up to the version: http://127.0.0.1:8080/v1
    key                  sent as a bearer token; never shown
    timeout              seconds without a byte
    attempts             at most so many for one request
    first_wait           seconds after the first failure; doubled after each further one
    requests_per_minute  of all threads together; None: as fast as it answers
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 600.0
    attempts: int = 8
    first_wait: float = 1.0
    requests_per_minute: float | None = None


class NoAnswerError(Exception):
    """This request will not be answered; others may be."""

    def __init__(self, reason: str, requests: int) -> None:
        super().__init__(reason)
        self.requests = requests


class Pace:
    """When the next request may go: shared by all threads."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, stopping: threading.Event) -> None:
        """Until it is this thread's turn."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        stopping.wait(max(0.0, turn - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """Nobody asks for so long: the server wants a pause."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Line:
    """A way to a server. After the first answer, refused connections are a server that restarts; before it, none that is there."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.stopping = threading.Event()
        self._pace = Pace(server.requests_per_minute)
        self._has_answered = False
        self._opener = _opener()

    def ask(self, path: str, body: Mapping[str, object], read: Callable[[object], Found]) -> tuple[Found, int]:
        """(what `read` makes of the reply, requests it took). `read` raises MalformedError for a reply that is none.

        NoAnswerError where this request was refused or all attempts failed; ServerError where asking on makes no sense.
        """
        reason = ""
        for attempt in range(1, self.server.attempts + 1):
            self._pace.wait(self.stopping)
            if self.stopping.is_set():
                raise NoAnswerError("stopped", attempt - 1)
            told = None
            try:
                found = read(self._reply(path, body))
                self._has_answered = True
                return found, attempt
            except HTTPError as error:
                reason = f"HTTP {error.code} {self._hidden(_said(error))[:200]}"
                self._refuse_for_good(error.code, reason, attempt)
                told = told_wait(error.headers.get("Retry-After"))
                if told is not None:
                    self._pace.hold(told)
            except MalformedError as error:
                reason = self._hidden(f"a reply that is none ({error})")
            except (OSError, HTTPException) as error:
                reason = self._hidden(_unreachable(error))
                self._refuse_nobody(error)
            if attempt < self.server.attempts:
                self.stopping.wait(max(told or 0.0, wait_after(attempt, self.server.first_wait)))
        raise NoAnswerError(f"{reason}, after {self.server.attempts} attempts", self.server.attempts)

    def _reply(self, path: str, body: Mapping[str, object]) -> object:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "potstill"}
        if self.server.key is not None:
            headers["Authorization"] = f"Bearer {self.server.key}"
        request = urllib.request.Request(
            self.server.url.rstrip("/") + path, data=json.dumps(body).encode(), headers=headers, method="POST"
        )
        with self._opener.open(request, timeout=self.server.timeout) as response:
            raw = response.read()
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            begins = self._hidden(raw.decode("utf-8", "replace"))[:60]
            raise MalformedError(f"{error}: {begins!r}") from error

    def _refuse_for_good(self, code: int, reason: str, attempt: int) -> None:
        if code in _NOT_THIS_ONE:
            raise NoAnswerError(reason, attempt)
        if code not in _AGAIN:
            advice = {
                401: "is the key right (writer.key_from names the environment variable that holds it)?",
                403: "may this key use this model?",
                404: "are writer.url (it ends with the version, as in http://127.0.0.1:8080/v1), endpoint and model right?",
            }.get(code, "look at writer.url and endpoint")
            raise ServerError(f"{self.server.url} refuses us: {reason}; {advice}")

    def _refuse_nobody(self, error: Exception) -> None:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ConnectionRefusedError) and not self._has_answered:
            raise ServerError(f"nothing answers at {self.server.url}: start the server, or set writer.url") from None

    def _hidden(self, text: str) -> str:
        """Servers repeat keys in what they say."""
        return text if not self.server.key else text.replace(self.server.key, "***")


def wait_after(attempt: int, first_wait: float) -> float:
    """Seconds before the next attempt: doubled each time, at most a minute, and of that half to all, so that threads part."""
    return min(_LONGEST_WAIT, first_wait * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def told_wait(retry_after: str | None) -> float | None:
    """What the header Retry-After says, in seconds or as a date; None where it says nothing."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return min(max(0.0, seconds), _LONGEST_TOLD_WAIT)


def _opener() -> urllib.request.OpenerDirector:
    """Proxies of the environment, no redirects: a key goes where the recipe says and nowhere else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _said(error: HTTPError) -> str:
    try:
        raw = error.read(20_000).decode("utf-8", "replace")
    except (OSError, HTTPException):
        raw = ""
    finally:
        error.close()
    return " ".join((raw or str(error.reason)).split())


def _unreachable(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return f"no reply ({type(cause).__name__}{f': {cause}' if str(cause) else ''})"
