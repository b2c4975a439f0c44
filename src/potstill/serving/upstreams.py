"""An engine behind OpenAI's API: asked, listened to, given up."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from urllib.parse import urlsplit

import httpx

from potstill.errors import ServerError
from potstill.routing import AnsweredBy
from potstill.serving.limits import Line, Timeouts
from potstill.serving.metrics import Metrics
from potstill.serving.refusals import RefusedError
from potstill.serving.sse import DONE, EventReader

# So many failures in a row, and it is left alone for so long: a request that can be answered otherwise does not wait for a timeout.
_FAILURES, _REST_SECONDS = 3, 2.0
_HEALTH_SECONDS = 2.0
_END_SECONDS = 0.1
# Shorter than servers keep a connection that nothing comes on; llama.cpp's 5 seconds are the shortest known.
_KEPT_SECONDS = 4.0
# Each request looks through those that are kept; beyond a few that costs more than a new one.
_KEPT = 16
# Of an answer that are held for a client that is slower than its engine, which then waits.
_HELD_BYTES = 2**18
_IMPOSSIBLE = -9999.0
# Passed on: the client's own mistakes. Any other status is a failure of the engine, or of how it is set up here.
_CLIENTS_MISTAKES = (400, 413, 422)


# A chunk of a stream, or a whole answer.
Part = dict[str, object]


class UpstreamError(RefusedError):
    """An engine that gave no answer, or half of one. `kind` is for counting."""

    def __init__(self, engine: str, kind: str, what: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(status, f"the {engine} {what}", code=f"{engine}_failed", retry_after=retry_after)
        self.kind = kind


class Upstream:
    """One engine: `role` answers at `url` (its OpenAI paths lie right below), called `model` there, with `key` if it wants one."""

    def __init__(
        self,
        role: AnsweredBy,
        url: str,
        *,
        model: str | None,
        key: str | None,
        line: Line,
        timeouts: Timeouts,
        metrics: Metrics,
    ) -> None:
        self.role: AnsweredBy = role
        self.line, self._timeouts, self._metrics = line, timeouts, metrics
        self._named = {} if model is None else {"model": model}
        self._failed_in_a_row, self._rests_until = 0, 0.0
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=timeouts.connect),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT, keepalive_expiry=_KEPT_SECONDS),
            trust_env=not is_loopback(urlsplit(url).hostname or ""),
        )

    async def parts(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[list[Part]]:
        """The chunks of a stream, as many as come together, or the one whole answer.

        RefusedError for the client's mistakes, UpstreamError for the engine's.
        """
        if (left := self._rests_until - time.monotonic()) > 0:
            raise UpstreamError(self.role, "resting", "does not answer", status=503, retry_after=left)
        async with self.line.place():
            reply = await self._opened(path, {**body, **self._named})
            try:
                async with aclosing(self._streamed(reply) if body.get("stream") else self._whole(reply)) as parts:
                    async for batch in parts:
                        self._failed_in_a_row = 0
                        yield batch
            finally:
                await reply.aclose()

    async def is_up(self) -> bool:
        """Whether it answers now."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                return (await self._client.get("/models")).is_success
        except (httpx.HTTPError, TimeoutError):
            return False

    def show_(self) -> None:
        """Put what can be seen of it now among the metrics."""
        self._metrics.in_flight.put(float(self.line.inside), self.role)
        self._metrics.waiting.put(float(self.line.waiting), self.role)
        self._metrics.up.put(float(self._failed_in_a_row == 0), self.role)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def _opened(self, path: str, body: Mapping[str, object]) -> httpx.Response:
        """The reply's beginning. Asked once more where the connection broke before it: it may have been an old one."""
        # Encoded here, because httpx refuses what JSON has no word for; all such was refused before.
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        request = self._client.build_request(
            "POST", path, content=content, headers={"content-type": "application/json"}
        )
        with self._noticed():
            async with asyncio.timeout(self._timeouts.first_byte if body.get("stream") else self._timeouts.answer):
                try:
                    reply = await self._client.send(request, stream=True)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    reply = await self._client.send(request, stream=True)
                if reply.is_success:
                    return reply
                try:
                    said = await reply.aread()
                finally:
                    await reply.aclose()
        message = _message_of(said)
        if reply.status_code in _CLIENTS_MISTAKES:
            self._failed_in_a_row = 0
            raise RefusedError(reply.status_code, f"the {self.role}: {message}", code="refused_by_engine")
        with self._noticed():
            is_busy = reply.status_code in (429, 503)
            what = "is busy" if is_busy else f"answers with status {reply.status_code}"
            kind, status = f"status {reply.status_code}", 503 if is_busy else 502
            raise UpstreamError(self.role, kind, what, status=status, retry_after=1.0 if is_busy else None)

    async def _whole(self, reply: httpx.Response) -> AsyncGenerator[list[Part]]:
        with self._noticed():
            async with asyncio.timeout(self._timeouts.answer):
                found = self._checked(await reply.aread())
            if not _is_whole(found):
                raise UpstreamError(self.role, "no choices", "answers without choices", status=502)
        yield [found]

    async def _streamed(self, reply: httpx.Response) -> AsyncGenerator[list[Part]]:
        reader, seconds, is_done = EventReader(), self._timeouts.first_byte, False
        async with aclosing(pieces_of(reply)) as received:
            while not is_done:
                batch, failure = [], None
                with self._noticed():
                    events = await self._heard(received, reader, seconds)
                try:
                    for data in events:
                        if is_done := data == DONE:
                            break
                        with self._noticed():
                            batch.append(self._checked(data))
                except UpstreamError as error:
                    failure = error
                if batch:
                    yield batch
                    seconds = self._timeouts.idle
                if failure is not None:
                    raise failure
            # Read to the very end, and the connection can be used again.
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(_END_SECONDS):
                    async for _ in received:
                        pass

    async def _heard(self, received: AsyncIterator[bytes], reader: EventReader, seconds: float) -> list[str]:
        async with asyncio.timeout(seconds):
            more = await anext(received, None)
        if more is None:
            raise UpstreamError(self.role, "broke off", "broke off in the middle of its answer", status=502)
        return reader.feed(more)

    def _checked(self, said: str | bytes) -> Part:
        """UpstreamError for what is no part of an answer."""
        try:
            found = json.loads(said, parse_float=_finite, parse_constant=_constant)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UpstreamError(self.role, "no JSON", "answers with something that is not JSON", status=502)
        choices = found.get("choices")
        if "error" in found or not isinstance(choices, list) or not all(map(_is_choice, choices)):
            what = "answers with an error" if "error" in found else "answers without choices"
            raise UpstreamError(self.role, "no choices", what, status=502)
        return found

    @contextmanager
    def _noticed(self) -> Iterator[None]:
        """Any failure inside is one of the engine: counted, and said in our words."""
        try:
            yield
        except UpstreamError as failure:
            self._count(failure.kind)
            raise
        except TimeoutError as error:
            self._count("timeout")
            raise UpstreamError(self.role, "timeout", "did not answer in time", status=504) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._count("no connection")
            raise UpstreamError(self.role, "no connection", "is not there", status=503, retry_after=5.0) from error
        except (httpx.HTTPError, ServerError) as error:
            self._count("broke off")
            raise UpstreamError(self.role, "broke off", "broke off", status=502) from error

    def _count(self, kind: str) -> None:
        self._metrics.failures.add(self.role, kind)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILURES:
            self._rests_until = time.monotonic() + _REST_SECONDS


async def pieces_of(reply: httpx.Response) -> AsyncGenerator[bytes]:
    """A body, as much of it as is here: httpx gives an engine's chunks one by one, and each would cost a client a packet of its own."""
    here: list[bytes] = []
    held = 0
    news, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal held
        is_first = True
        async for piece in reply.aiter_bytes():
            here.append(piece)
            held += len(piece)
            news.set()
            if is_first:  # an answer's beginning does not wait for what follows it
                is_first = False
                await asyncio.sleep(0)
            if held >= _HELD_BYTES:
                room.clear()
                await room.wait()

    reading = asyncio.ensure_future(read())
    reading.add_done_callback(lambda _: news.set())
    try:
        while here or not reading.done():
            await news.wait()
            news.clear()
            if here:
                heard = b"".join(here)
                here.clear()
                held = 0
                room.set()
                yield heard
        reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def is_loopback(host: str) -> bool:
    """Whether only this machine is meant."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def _is_choice(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("index", 0), int):
        return False
    return all(isinstance(value.get(name), dict | None) for name in ("message", "delta"))


def _is_whole(answer: Part) -> bool:
    """Whether there is an answer, and something in each choice of it."""
    choices = answer["choices"]
    assert isinstance(choices, list)
    return bool(choices) and all(
        isinstance(one.get("message"), dict) or isinstance(one.get("text"), str) for one in choices
    )


def _finite(text: str) -> float:
    """ValueError for what no client could read again: a number beyond all numbers would be passed on as `Infinity`, which is no JSON."""
    if math.isinf(found := float(text)):
        raise ValueError(f"{text} is no number")
    return found


def _constant(word: str) -> float:
    """Python's servers write words that JSON hasn't got. The log-probability of what can't be is -9999 in OpenAI's API."""
    if word == "-Infinity":
        return _IMPOSSIBLE
    raise ValueError(f"{word} is no JSON")


def _message_of(said: bytes) -> str:
    """What an engine says of a mistake; its own words, shortened."""
    try:
        found = json.loads(said)
        message = found["error"]["message"] if "error" in found else found["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = "it can't answer this request"
    return str(message)[:500]
