"""Who may come in, and what is written down of it: a key, hosts, the log, the counts."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.serving.metrics import Metrics
from potstill.serving.modes import Verdict
from potstill.serving.refusals import RefusedError
from potstill.serving.upstreams import is_loopback

_LOG = logging.getLogger("potstill.serving")
# Without a key: the page, which asks for one, and whether we live.
_OPEN = ("/", "/health")
_ENTRY = "potstill.entry"


@dataclass
class Entry:
    """What is written down of one request. `prompt` is filled in where that was asked for."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.monotonic)
    first_seconds: float | None = None
    status: int = 0
    asks: bool = False
    verdict: Verdict | None = None
    model: str = ""
    prompt: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    error: str = ""
    broke_off: bool = False
    client_gone: bool = False

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.monotonic() - self.began


def entry_of(scope: Scope) -> Entry:
    """The entry that belongs to a request."""
    return scope[_ENTRY]


class Guard:
    """Around the whole app: lets in who has the key, or without one who means this machine by its own name; logs and counts."""

    def __init__(self, app: ASGIApp, *, key: str | None, mode: str, metrics: Metrics) -> None:
        self._app, self._mode, self._metrics = app, mode, metrics
        self._key = None if key is None else hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's own beginning and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        entry = scope[_ENTRY] = Entry()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = entry.id
            elif entry.first_seconds is None:
                entry.first_seconds = entry.seconds
            await send(message)

        try:
            if (refusal := self._refusal(scope)) is None:
                await self._app(scope, receive, sending)
            else:
                entry.error = refusal.code
                await refuse(refusal, sending)
        finally:
            self._write_down(scope, entry)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            # A page elsewhere whose name was made to point here (DNS rebinding) calls us by that name.
            if not is_loopback(_host_of(headers.get("host", ""))):
                return RefusedError(403, "this door has no key and answers to localhost alone", code="forbidden_host")
            return None
        if scope["path"] in _OPEN:
            return None
        scheme, _, told = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(told.strip().encode("utf-8", "surrogateescape")).digest()
        if hmac.compare_digest(digest, self._key) and scheme.lower() == "bearer":
            return None
        return RefusedError(401, "the key is missing or wrong: Authorization: Bearer KEY", code="invalid_api_key")

    def _write_down(self, scope: Scope, entry: Entry) -> None:
        verdict = entry.verdict
        status = "499" if entry.client_gone else str(entry.status)
        if entry.asks:
            who, why = (
                ("nobody", entry.error or "client gone") if verdict is None else (verdict.answered_by, verdict.reason)
            )
            self._metrics.requests.add(self._mode, who, why, status)
            self._metrics.seconds.see(entry.seconds, who)
            if verdict is not None:
                self._metrics.first_seconds.see(entry.first_seconds or entry.seconds, who)
                self._metrics.tokens.add(who, "prompt", by=float(entry.prompt_tokens))
                self._metrics.tokens.add(who, "completion", by=float(entry.tokens))
            self._metrics.broken.add(by=float(entry.broke_off))
            self._metrics.gone.add(by=float(entry.client_gone))
        found: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": entry.id,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": int(status),
            "seconds": round(entry.seconds, 4),
        }
        if verdict is not None:
            found |= verdict.field | {"prompt_tokens": entry.prompt_tokens, "tokens": entry.tokens}
        found |= {name: value for name in ("model", "error", "prompt") if (value := getattr(entry, name))}
        found |= {"broke_off": True} if entry.broke_off else {}
        _LOG.info("%s", json.dumps(found))


async def refuse(refusal: RefusedError, send: Send, *, headers: dict[str, str] | None = None) -> None:
    """Tell the client so."""
    await send_json(refusal.body, send, status=refusal.status, headers={**refusal.headers, **(headers or {})})


async def send_json(body: object, send: Send, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
    """A whole response."""
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    told = {"content-type": "application/json", "content-length": str(len(raw)), **(headers or {})}
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": raw})


def _host_of(header: str) -> str:
    """Without the port; [::1]:80 is ::1."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
