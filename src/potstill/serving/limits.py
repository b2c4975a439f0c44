"""How much is let in: sizes, tokens, requests at once, and how long anything may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from potstill.serving.refusals import RefusedError

Receive = Callable[[], Awaitable[MutableMapping[str, object]]]


@dataclass(frozen=True)
class Limits:
    """Of one request.

    body_bytes    of what is sent here
    max_tokens    of an answer; also what is asked for where the client names no number
    choices       answers to one request: `n` times its prompts
    body_seconds  until a request is here as a whole
    more_fields   of a request, passed on unseen beside those that are known
    """

    body_bytes: int = 2**20
    max_tokens: int = 1024
    choices: int = 8
    body_seconds: float = 30.0
    more_fields: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Timeouts:
    """In seconds: to connect to an engine; until the first byte of a stream; between two; for an answer as a whole, not streamed."""

    connect: float = 5.0
    first_byte: float = 120.0
    idle: float = 60.0
    answer: float = 600.0


class Line:
    """Before one engine: `at_once` requests inside, at most `most_waiting` behind them, none for more than `seconds`."""

    def __init__(self, name: str, *, at_once: int, most_waiting: int, seconds: float = 60.0) -> None:
        self.name, self.at_once, self.most_waiting, self.seconds = name, at_once, most_waiting, seconds
        self.inside = self.waiting = 0
        self._places = asyncio.Semaphore(at_once)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """A place inside. RefusedError 429 where too many wait, 503 where it took too long."""
        if self._places.locked() and self.waiting >= self.most_waiting:
            raise RefusedError(
                429,
                f"{self.waiting} requests wait for the {self.name} already: try again",
                code="busy",
                retry_after=1.0,
            )
        self.waiting += 1
        try:
            async with asyncio.timeout(self.seconds):
                await self._places.acquire()
        except TimeoutError:
            message = f"the {self.name} had no place within {self.seconds:g} seconds: try again"
            raise RefusedError(503, message, code="busy", retry_after=5.0) from None
        finally:
            self.waiting -= 1
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._places.release()


class ClientGoneError(Exception):
    """Nobody is there to be answered."""


async def read_body(receive: Receive, headers: Mapping[str, str], limits: Limits) -> bytes:
    """All of a request. RefusedError 413 where it is too long, 408 where it takes too long; ClientGoneError."""
    too_long = RefusedError(
        413, f"a request has at most {limits.body_bytes:,} bytes (--max-body): shorten it", code="request_too_large"
    )
    told = headers.get("content-length", "0")
    if not told.isascii() or not told.isdigit() or int(told[:20]) > limits.body_bytes:
        raise too_long
    found = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                found += message.get("body", b"")  # type: ignore[arg-type]
                if len(found) > limits.body_bytes:
                    raise too_long
                if not message.get("more_body"):
                    return bytes(found)
    except TimeoutError:
        message = f"the request was not here within {limits.body_seconds:g} seconds"
        raise RefusedError(408, message, code="request_timeout") from None
