"""The door: what is at which path, and a request from its body to the last byte of its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.errors import DataError
from potstill.routing import AnsweredBy
from potstill.serving import metrics as prometheus
from potstill.serving.access import Entry, Guard, entry_of, refuse, send_json
from potstill.serving.asking import OWN_NAME, Asked, Endpoint, asked_of
from potstill.serving.limits import ClientGoneError, Limits, Timeouts, read_body
from potstill.serving.logprobs import show_
from potstill.serving.metrics import Metrics
from potstill.serving.modes import Answer, Mode
from potstill.serving.page import chat_page
from potstill.serving.refusals import RefusedError
from potstill.serving.sse import DONE, event
from potstill.serving.upstreams import Part

_HEALTH_KEPT_SECONDS = 1.0


@dataclass(frozen=True)
class Door:
    """What a door is made of; `door_app` makes it. `logs_prompts`: the access log holds what was asked last."""

    mode: Mode
    metrics: Metrics
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    key: str | None = field(default=None, repr=False)
    logs_prompts: bool = False


def door_app(door: Door) -> ASGIApp:
    """An ASGI app; closes its engines' connections when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        for engine in door.mode.engines.values():
            await engine.close()

    health = _Health(door)
    routes = [
        Route("/v1/chat/completions", _Answering(door, "/chat/completions"), methods=["POST"]),
        Route("/v1/completions", _Answering(door, "/completions"), methods=["POST"]),
        Route("/v1/models", _models(door), methods=["GET"]),
        Route("/v1/models/{name}", _models(door), methods=["GET"]),
        Route("/health", health.respond, methods=["GET"]),
        Route("/metrics", _metrics(door), methods=["GET"]),
        Route("/", _page, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _nowhere, Exception: _defect})
    app.router.redirect_slashes = False
    return Guard(app, key=door.key, mode=door.mode.name, metrics=door.metrics)


class _Answering:
    """One of the two paths where answers are asked for."""

    def __init__(self, door: Door, path: Endpoint) -> None:
        self._door = door
        self._path: Endpoint = path
        self._most = sum(one.line.at_once + one.line.most_waiting for one in door.mode.engines.values())
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = entry_of(scope)
        entry.asks = True
        self._inside += 1
        try:
            asked = await self._asked(scope, receive, entry)
            await _while_client_is_there(receive, lambda: self._respond(asked, entry, send))
        except RefusedError as refusal:
            entry.error = refusal.code
            await refuse(refusal, send)
        except ClientGoneError:
            entry.client_gone = True
        finally:
            self._inside -= 1

    async def _asked(self, scope: Scope, receive: Receive, entry: Entry) -> Asked:
        """Nothing is read of a request for which there is no room."""
        if self._inside > self._most:
            raise RefusedError(429, "too many requests wait here already: try again", code="busy", retry_after=1.0)
        headers = Headers(scope=scope)
        # A form of a foreign page can send anything but this, so no page makes our models work in a visitor's name.
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            message = "a request is JSON, with the header Content-Type: application/json"
            raise RefusedError(415, message, code="unsupported_media_type")
        raw = await read_body(receive, headers, self._door.limits)
        asked = asked_of(raw, self._path, self._door.limits, tuple(self._door.mode.engines))
        entry.model, entry.prompt = asked.model, asked.prompt if self._door.logs_prompts else None
        return asked

    async def _respond(self, asked: Asked, entry: Entry, send: Send) -> None:
        """What fails before the first byte is a RefusedError; what fails later, an event of the stream."""
        answer = await self._door.mode.answer(_with_usage(asked))
        entry.verdict = answer.verdict
        async with aclosing(answer.parts):  # type: ignore[type-var]
            shown = self._shown(asked, answer, entry)
            if not asked.is_stream:
                async for [whole] in shown:
                    await self._send(send_json, whole, send, headers=answer.verdict.headers)
                return
            await self._stream(shown, answer, entry, send)

    async def _stream(self, shown: AsyncGenerator[list[Part]], answer: Answer, entry: Entry, send: Send) -> None:
        told = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **answer.verdict.headers,
        }
        # Proxies of the nginx family hold a stream back otherwise.
        told["x-accel-buffering"] = "no"
        pairs = [(name.encode(), value.encode()) for name, value in told.items()]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        try:
            async for batch in shown:
                await self._send_bytes(b"".join(map(event, batch)), send)
            last: object = DONE
        except RefusedError as refusal:
            entry.broke_off, entry.error, last = True, refusal.code, refusal.body
        await self._send_bytes(event(last), send)
        await send({"type": "http.response.body", "body": b""})

    async def _shown(self, asked: Asked, answer: Answer, entry: Entry) -> AsyncGenerator[list[Part]]:
        """The parts as the client may see them: who answered, no more than it wished, tokens counted."""
        offsets: dict[int, int] = {}
        is_first = True
        async for batch in answer.parts:
            shown = []
            for part in batch:
                _count(part, entry)
                if asked.is_stream and not asked.wants_usage and "usage" in part:
                    del part["usage"]
                    if not part["choices"]:
                        continue
                try:
                    show_(part, asked, offsets)
                except DataError as error:
                    raise RefusedError(
                        502, f"the {answer.verdict.answered_by}: {error}", code="bad_logprobs"
                    ) from error
                part["model"] = asked.model
                if is_first:
                    part["potstill"], is_first = answer.verdict.field, False
                shown.append(part)
            if shown:
                yield shown

    async def _send_bytes(self, raw: bytes, send: Send) -> None:
        await self._send(send, {"type": "http.response.body", "body": raw, "more_body": True})

    async def _send(self, sending: Callable[..., Awaitable[None]], *what: object, **how: object) -> None:
        """A client that reads nothing for too long is gone."""
        try:
            async with asyncio.timeout(self._door.timeouts.idle):
                await sending(*what, **how)
        except TimeoutError:
            raise ClientGoneError from None


async def _while_client_is_there(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do it; stop in the middle and raise ClientGoneError when the client hangs up."""
    working, leaving = asyncio.ensure_future(work()), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        else:
            raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


def _with_usage(asked: Asked) -> Asked:
    """Streams count their tokens when told to: for our own counts."""
    if not asked.is_stream or asked.wants_usage:
        return asked
    return replace(asked, body={**asked.body, "stream_options": {"include_usage": True}})


def _count(part: dict[str, object], entry: Entry) -> None:
    usage = part.get("usage")
    if isinstance(usage, dict):
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        entry.prompt_tokens = read if isinstance(read, int) else 0
        entry.tokens = written if isinstance(written, int) else 0


def _models(door: Door) -> Callable[[Request], Awaitable[Response]]:
    began = int(time.time())

    async def respond(request: Request) -> Response:
        names = (OWN_NAME, *door.mode.engines)
        listed = {name: {"id": name, "object": "model", "created": began, "owned_by": "potstill"} for name in names}
        if (name := request.path_params.get("name")) is None:
            return JSONResponse({"object": "list", "data": list(listed.values())})
        if name not in listed:
            raise HTTPException(404)
        return JSONResponse(listed[name])

    return respond


def _metrics(door: Door) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        for engine in door.mode.engines.values():
            engine.show_()
        return Response(door.metrics.text(), headers={"content-type": prometheus.CONTENT_TYPE})

    return respond


class _Health:
    """Whether engines answer, asked at most once a second."""

    def __init__(self, door: Door) -> None:
        self._door, self._asked, self._lock = door, -_HEALTH_KEPT_SECONDS, asyncio.Lock()
        self._is_up: dict[AnsweredBy, bool] = {}

    async def respond(self, _: Request) -> Response:
        engines = self._door.mode.engines
        async with self._lock:
            if time.monotonic() - self._asked >= _HEALTH_KEPT_SECONDS:
                found = await asyncio.gather(*(engine.is_up() for engine in engines.values()))
                self._is_up, self._asked = dict(zip(engines, found, strict=True)), time.monotonic()
        up = sum(self._is_up.values())
        status = "ok" if up == len(engines) else "degraded" if up else "down"
        states = {role: {"state": "up" if is_up else "down"} for role, is_up in self._is_up.items()}
        body = {"status": status, "mode": self._door.mode.name, "engines": states}
        return JSONResponse(body, status_code=200 if up else 503)


async def _page(_: Request) -> Response:
    page = chat_page()
    return Response(page.html, headers=dict(page.headers))


async def _nowhere(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} is not for" if error.status_code == 405 else "there is nothing at"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    refusal = RefusedError(error.status_code, f"{what} {request.url.path[:100]}", code=code)
    entry_of(request.scope).error = code
    return JSONResponse(refusal.body, status_code=refusal.status, headers=error.headers)


async def _defect(request: Request, _: Exception) -> Response:
    """The traceback is in the log; the client is told which entry of it."""
    entry = entry_of(request.scope)
    entry.error = "defect"
    refusal = RefusedError(500, f"a defect of the door, noted as {entry.id}", code="defect")
    return JSONResponse(refusal.body, status_code=refusal.status)
