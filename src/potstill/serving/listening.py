"""A door on a port: opened, kept open, shut in peace."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from potstill.errors import RecipeError
from potstill.serving.upstreams import is_loopback

_BACKLOG = 1024


def warning_of(host: str, *, has_key: bool) -> str:
    """What a person should know of where the door is; empty: nothing. RecipeError where anybody could come in."""
    if is_loopback(host):
        return ""
    if not has_key:
        raise RecipeError(
            f"{host} is reached from elsewhere, where anybody could use the models: put a key into an environment variable and name "
            "it (--key-env NAME), or stay on 127.0.0.1"
        )
    return f"{host} is reached from elsewhere, and what is said there is not encrypted: put a proxy with TLS before it (docs/serving.md)"


def open_port(host: str, port: int) -> socket.socket:
    """The port, ours from now on, where nobody is heard yet. RecipeError where it can't be had."""
    # The protocol is named, because asyncio sends small packets at once on sockets of this protocol alone; 40 ms a request otherwise.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise RecipeError(
            f"{host}, port {port} can't be listened at ({error.strerror or error}): choose another (--host, --port)"
        ) from error
    return found


def listen(app: ASGIApp, port: socket.socket, *, grace_seconds: float) -> None:
    """Answer until SIGTERM or SIGINT; then finish what is being answered, for so long at most."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
        backlog=_BACKLOG,
        lifespan="on",
    )
    with _signals_end_nothing_else():
        uvicorn.Server(config).run(sockets=[port])


@contextmanager
def _signals_end_nothing_else() -> Iterator[None]:
    """uvicorn ends in peace, then raises the signal again: engines are ended after it, and the exit code is 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
