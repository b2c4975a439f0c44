"""An OpenAI-compatible server that answers from the prompt's own text, and often doesn't."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "500", "503", "closed", "stalled", "half", "dropped", "no JSON", "no choices", "no text")
STALLED_SECONDS = 1.0


@dataclass
class Behaviour:
    """What the server does.

    share   of requests that go wrong, by the hash of the prompt and how often it was asked
    answer  (body, prompt) -> the choice's fields, or a status and what to say
    seconds before an answer
    """

    share: float = 0.0
    faults: tuple[str, ...] = FAULTS
    answer: Callable[[dict, str], dict | tuple[int, dict]] = lambda _, prompt: {"text": f"answer to {prompt}"}
    seconds: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    gone_wrong: Counter[str] = field(default_factory=Counter)
    dropped_at: list[int] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    bodies: list[dict] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, prompt: str) -> str | None:
        with self.lock:
            self.asked[prompt] += 1
            draw = int.from_bytes(blake2b(f"{prompt} {self.asked[prompt]}".encode(), digest_size=8).digest(), "big")
            if draw / 2**64 >= self.share:
                return None
            fault = self.faults[draw % len(self.faults)]
            self.gone_wrong[fault] += 1
            return fault


def prompt_of(body: dict) -> str:
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


# Long: one class, made for one behaviour.
def handler_of(behaviour: Behaviour) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = prompt_of(body)
            with behaviour.lock:
                behaviour.keys.add(self.headers.get("Authorization"))
                behaviour.bodies.append(body)
                behaviour.times.append(time.monotonic())
            match behaviour.fault(prompt):
                case None:
                    self.answer(body, prompt)
                case "429":
                    self.reply(429, {"error": {"message": "slower"}}, {"Retry-After": "0"})
                case "500" | "503" as status:
                    self.reply(int(status), {"error": {"message": f"no luck, {self.headers.get('Authorization')}"}})
                case "closed":
                    self.close_connection = True
                case "stalled":
                    time.sleep(STALLED_SECONDS)
                    self.close_connection = True
                case "half":
                    self.reply(200, b'{"choices": [{"tex')
                case "dropped":
                    self.drop(json.dumps({"choices": [{"index": 0, "text": "half an answer to nothing"}]}).encode())
                case "no JSON":
                    self.reply(200, b"<html>a gateway's own page</html>")
                case "no choices":
                    self.reply(200, {"error": {"message": "overloaded"}})
                case "no text":
                    self.reply(200, {"choices": [{"message": {"content": None}}]})

        def answer(self, body: dict, prompt: str) -> None:
            time.sleep(behaviour.seconds)
            found = behaviour.answer(body, prompt)
            if isinstance(found, tuple):
                self.reply(*found)
                return
            text = found.pop("text")
            said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
            usage = found.pop(
                "usage", {"prompt_tokens": len(prompt.split()), "completion_tokens": len(str(text).split())}
            )
            choice = {"index": 0, "finish_reason": "stop", **said, **found}
            self.reply(200, {"choices": [choice], "usage": usage})
            with behaviour.lock:
                behaviour.answered[prompt] += 1

        def drop(self, body: bytes) -> None:
            """A good reply of which only so many bytes arrive, in its head or in its body."""
            whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            with behaviour.lock:
                draw = blake2b(f"{sum(behaviour.asked.values())}".encode(), digest_size=8).digest()
                size = int.from_bytes(draw, "big") % len(whole)
                behaviour.dropped_at.append(size)
            self.wfile.write(whole[:size])
            self.close_connection = True

        def reply(self, status: int, said: dict | bytes, headers: dict[str, str] | None = None) -> None:
            raw = said if isinstance(said, bytes) else json.dumps(said).encode()
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # whoever asked is gone

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The server's url while it runs."""
    server = Server(("127.0.0.1", 0), handler_of(behaviour))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
