"""A door on a port of its own, in this process, in front of engines that run already."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import uvicorn
from fake_engine import FakeEngine

from potstill.routing import AnsweredBy, Calibration, Confidence, Histogram, Policy, Promise
from potstill.serving import (
    Door,
    Limits,
    Metrics,
    Mode,
    ModeName,
    Running,
    Served,
    TeacherDown,
    Timeouts,
    door_app,
    mode_of,
    open_port,
)

# For engines that hang, and for them alone: what answers may take longer on a busy machine.
QUICK = Timeouts(connect=1.0, first_byte=1.0, idle=1.0, answer=1.0)


def policy(threshold: float | None = 0.8) -> Policy:
    """Goes by the mean log-probability: 0 is certain, -5 is not."""
    return Policy(
        Confidence(("mean_logprob",), (1.0,), 0.0, ((-5.0, 0.0), (0.0, 1.0))),
        threshold,
        Promise(0.97, 0.1, 300, 0.5, 0.99),
        Histogram((-2.5,), (0.5, 0.5), 300),
        Calibration("2026-11-25", "written", "q", "s", "t"),
        3,
    )


@dataclass(frozen=True)
class OpenDoor:
    url: str
    metrics: Metrics
    server: uvicorn.Server

    def client(self, *, key: str = "none", retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=retries, timeout=20)


@contextmanager
def open_door(
    *,
    student: FakeEngine | None = None,
    teacher: FakeEngine | None = None,
    mode: ModeName | None = None,
    by: Policy | None = None,
    teacher_down: TeacherDown = "error",
    timeouts: Timeouts | None = None,
    in_flight: int | None = None,
    queue: int = 64,
    queue_seconds: float = 5.0,
    limits: Limits | None = None,
    key: str | None = None,
    logs_prompts: bool = False,
) -> Iterator[OpenDoor]:
    """Until the end of `with`; then shut in peace, within 2 seconds."""
    engines: dict[AnsweredBy, Served] = {}
    if student is not None:
        engines["student"] = Served(f"{student.url}#student-of-the-server", "key-of-the-student")
    if teacher is not None:
        engines["teacher"] = Served(f"{teacher.url}#teacher-of-the-server")
    name: ModeName = mode or ("routed" if by else "student" if student else "teacher")
    running = Running(
        in_flight=in_flight, queue=queue, queue_seconds=queue_seconds, timeouts=timeouts or Timeouts(connect=2.0)
    )
    metrics = Metrics()
    with (
        mode_of(name, engines, running, metrics, policy=by, teacher_down=teacher_down) as made,
        door_of(made, metrics, limits, running.timeouts, key=key, logs_prompts=logs_prompts) as door,
    ):
        yield door


@contextmanager
def door_of(
    mode: Mode,
    metrics: Metrics,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    *,
    key: str | None = None,
    logs_prompts: bool = False,
) -> Iterator[OpenDoor]:
    """In front of engines that a mode has."""
    door = Door(mode, metrics, limits or Limits(), timeouts or Timeouts(), key=key, logs_prompts=logs_prompts)
    with open_port("127.0.0.1", 0) as port:
        config = uvicorn.Config(
            door_app(door), log_level="error", access_log=False, proxy_headers=False, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [port]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield OpenDoor(f"http://127.0.0.1:{port.getsockname()[1]}", metrics, server)
        finally:
            server.should_exit = True
            thread.join()


def sample(text: str, name: str) -> float:
    """The value of one line of /metrics, named with its labels; 0 where it is not there."""
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return float(lines.get(name, 0))


def metrics_with(url: str, name: str, least: float) -> str:
    """/metrics as soon as this sample is so large, or after ten seconds: a request is counted a moment after its answer was sent."""
    until = time.monotonic() + 10
    while sample(text := httpx.get(f"{url}/metrics").text, name) < least and time.monotonic() < until:
        time.sleep(0.02)
    return text


def saved(found: Policy, folder: Path) -> Path:
    found.save(folder / "policy.json")
    return folder / "policy.json"
