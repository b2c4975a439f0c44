"""An OpenAI-compatible engine on a real port: answers with the question's own words, sure or unsure as told, and fails as told."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

# In the place of a log-probability.
NO_NUMBERS = ("NaN", "1e999", "-Infinity")
FAULTS = (
    "400",
    "401",
    "429",
    "500",
    "503",
    "closed",
    "stalled",
    "half",
    "no JSON",
    "no choices",
    "odd",
    "nothing",
    "error",
    "torn",
    *NO_NUMBERS,
    "hangs",
    "empty",
)
SURE, UNSURE = -0.05, -4.0
_UNKNOWN = {"content": [{"token": "a", "logprob": float("nan"), "top_logprobs": []}]}


@dataclass
class Behaviour:
    """What the engine does. A question with the word "hard" is answered unsurely, as are a completion's choices after the first.

    `shape`: of log-probabilities of completions."""

    name: str = "student"
    fault: str | None = None
    faults_left: int = 10**9
    seconds_a_token: float = 0.0
    shape: str = "llama"
    gives_logprobs: bool = True
    answer: str | None = None
    bodies: list[dict] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    begun: int = 0
    finished: int = 0
    left: int = 0
    inside: int = 0
    most_inside: int = 0
    connections: int = 0

    def takes_fault(self) -> str | None:
        if self.fault is None or self.faults_left <= 0:
            return None
        self.faults_left -= 1
        return self.fault


def question_of(body: dict) -> str:
    said = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    return said if isinstance(said, str) else json.dumps(said)


class FakeEngine:
    """Runs on a loop of its own; `kill` breaks every connection, as a killed process does."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def start(self) -> None:
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self.open())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        ready.wait()

    def kill(self) -> None:
        async def killing() -> None:
            assert self._server is not None
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(killing(), self._loop).result()

    def revive(self) -> None:
        asyncio.run_coroutine_threadsafe(self.open(), self._loop).result()

    def stop(self) -> None:
        async def stopping() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.kill()
        asyncio.run_coroutine_threadsafe(stopping(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.behaviour.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        if request.startswith("GET"):
            _reply(writer, 200, {"object": "list", "data": []})
            return True
        behaviour, body = self.behaviour, json.loads(raw)
        behaviour.keys.add(headers.get("authorization"))
        behaviour.bodies.append(body)
        behaviour.inside += 1
        behaviour.most_inside = max(behaviour.most_inside, behaviour.inside)
        behaviour.begun += 1
        answering = asyncio.ensure_future(self._answer(body, "messages" in body, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                behaviour.left += 1
                return False
            behaviour.finished += 1
            return answering.result() and not leaving.done()
        finally:
            behaviour.inside -= 1
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, body: dict, is_chat: bool, writer: asyncio.StreamWriter) -> bool:
        behaviour, fault = self.behaviour, self.behaviour.takes_fault()
        match fault:
            case "400" | "401" | "429" | "500" | "503":
                _reply(writer, int(fault), {"error": {"message": "the engine's own words", "code": int(fault)}})
                return True
            case "closed":
                return False
            case "stalled":
                await asyncio.sleep(60)
            case "no JSON":
                _reply(writer, 200, b"<html>a gateway's own page</html>")
                return True
            case "empty" if not body.get("stream"):
                _reply(writer, 200, {"choices": [{"index": 0, "finish_reason": "stop"}] * (len(behaviour.bodies) % 2)})
                return True
            case "no choices":
                _reply(writer, 200, {"object": "none"})
                return True
            case "odd":
                _reply(writer, 200, {"choices": [{"index": "first", "message": "text", "logprobs": {"tokens": 3}}]})
                return True
            case "nothing" if not body.get("stream"):
                _reply(writer, 200, b"")
                return True
        pieces = (behaviour.answer or f"{behaviour.name} to {question_of(body)}").split(" ")
        tokens = [piece if at == 0 else " " + piece for at, piece in enumerate(pieces)][: body.get("max_tokens", 99)]
        parts = [_part(body, behaviour, [token], is_chat) for token in tokens]
        usage = {"prompt_tokens": 7, "completion_tokens": len(tokens), "total_tokens": 7 + len(tokens)}
        if not body.get("stream"):
            await asyncio.sleep(behaviour.seconds_a_token * len(tokens))
            answer = _part(body, behaviour, tokens, is_chat, whole=True)
            unsure = _part(body | {"prompt": "hard"}, behaviour, tokens, is_chat, whole=True)["choices"][0]
            answer["choices"] += [unsure | {"index": index} for index in range(1, body.get("n", 1))]
            if fault in NO_NUMBERS:
                answer["choices"][0]["logprobs"] = _UNKNOWN
            if fault == "hangs":
                await asyncio.sleep(60)
            whole = json.dumps({**answer, "usage": usage}).replace("NaN", str(fault)).encode()
            if fault == "torn":
                whole = whole[: len(whole) // 2]
            _reply(writer, 200, whole[: len(whole) // 2] if fault == "half" else whole, length=len(whole))
            return fault != "half"
        return await self._stream(body, is_chat, fault, parts, usage, writer)

    async def _stream(
        self, body: dict, is_chat: bool, fault: str | None, parts: list[dict], usage: dict, writer: asyncio.StreamWriter
    ) -> bool:
        behaviour = self.behaviour
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for at, part in enumerate(parts):
            if at == 1 and fault == "half":
                return False
            if at == 1 and fault == "error":
                part = {"error": {"message": "out of memory"}}
            if at == 1 and fault in NO_NUMBERS:
                part["choices"][0]["logprobs"] = _UNKNOWN
            if at == 1 and fault == "hangs":
                await asyncio.sleep(60)
            if fault != "nothing":
                _chunk(
                    writer, json.dumps(part).replace("NaN", str(fault))[: 20 if at == 1 and fault == "torn" else None]
                )
                await writer.drain()
            await asyncio.sleep(behaviour.seconds_a_token)
        end = _part(body, behaviour, [], is_chat)
        end["choices"][0]["finish_reason"] = "stop"
        if fault != "nothing":
            _chunk(writer, json.dumps(end))
        if body.get("stream_options", {}).get("include_usage") and fault != "nothing":
            _chunk(writer, json.dumps({**end, "choices": [], "usage": usage}))
        _chunk(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _part(body: dict, behaviour: Behaviour, tokens: list[str], is_chat: bool, *, whole: bool = False) -> dict:
    text = "".join(tokens)
    choice: dict = {"index": 0, "finish_reason": "stop" if whole else None}
    if is_chat:
        choice["message" if whole else "delta"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    if body.get("logprobs") and behaviour.gives_logprobs:
        logprob = UNSURE if "hard" in question_of(body) else SURE
        number = body["top_logprobs"] if is_chat else body["logprobs"]
        tops = [{"token": f"t{at}", "logprob": logprob - at} for at in range(number)]
        content = [{"token": token, "logprob": logprob, "top_logprobs": tops} for token in tokens]
        choice["logprobs"] = {"content": content}
        if not is_chat and behaviour.shape == "openai":
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": [logprob] * len(tokens),
                "top_logprobs": [{top["token"]: top["logprob"] for top in tops}] * len(tokens),
            }
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": f"/models/{behaviour.name}",
        "choices": [choice],
    }


def _reply(writer: asyncio.StreamWriter, status: int, said: dict | bytes, *, length: int | None = None) -> None:
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length or len(raw)}\r\n\r\n"
    writer.write(head.encode() + raw)


def _chunk(writer: asyncio.StreamWriter, data: str) -> None:
    raw = f"data: {data}\n\n".encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


@contextmanager
def engine(**how: object) -> Iterator[FakeEngine]:
    """One that runs inside `with`."""
    found = FakeEngine(Behaviour(**how))  # type: ignore[arg-type]
    found.start()
    try:
        yield found
    finally:
        found.stop()


async def _main(name: str, seconds_a_token: float) -> None:
    found = FakeEngine(Behaviour(name=name, seconds_a_token=seconds_a_token))
    await found.open()
    print(found.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2])))
