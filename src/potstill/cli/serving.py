"""Serving with a person watching."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from potstill.errors import RecipeError
from potstill.routing import AnsweredBy, Policy
from potstill.serving import (
    Door,
    Limits,
    Metrics,
    ModeName,
    Running,
    Served,
    TeacherDown,
    door_app,
    listen,
    mode_of,
    open_port,
    warning_of,
)

_OTHER_ANSWERS = {"choice": "choices between answers", "token": "single next tokens of a text"}


@dataclass(frozen=True)
class Listening:
    """Where the door is, who may come in, how it is shut, and whether what is asked is logged."""

    host: str
    port: int
    key: str | None = field(repr=False)
    grace_seconds: float
    logs_prompts: bool


def key_in(variable: str | None, option: str) -> str | None:
    """The key that an environment variable holds. RecipeError where it holds none."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable, "").strip()):
        raise RecipeError(f"{option} names the environment variable {variable!r}, which is not set or empty")
    return key


def serve_with(
    name: ModeName,
    engines: dict[AnsweredBy, Served],
    running: Running,
    limits: Limits,
    listening: Listening,
    *,
    policy: Policy | None,
    teacher_down: TeacherDown,
) -> None:
    """Take the port, start the engines, answer until told to end. The access log goes to standard error."""
    watching = Console(stderr=True)
    if warning := warning_of(listening.host, has_key=listening.key is not None):
        _note(watching, f"[yellow]careful[/yellow]  {escape(warning)}")
    if policy is not None and (of := _OTHER_ANSWERS.get(policy.calibration.answering)):
        _note(
            watching,
            f"[yellow]careful[/yellow]  the policy was calibrated on {of}, and here answers are written: its promise is not of them. "
            "Calibrate on queries like those that come (potstill route)",
        )
    if policy is not None and policy.threshold is None:
        _note(
            watching,
            "[yellow]careful[/yellow]  the policy promises nothing, so the teacher answers everything and the student nothing",
        )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("potstill.serving").setLevel(logging.INFO)
    metrics = Metrics()
    with (
        open_port(listening.host, listening.port) as port,
        mode_of(name, engines, running, metrics, policy=policy, teacher_down=teacher_down) as mode,
    ):
        door = Door(
            mode,
            metrics,
            limits,
            running.timeouts,
            key=listening.key,
            logs_prompts=listening.logs_prompts,
        )
        host = f"[{listening.host}]" if ":" in listening.host else listening.host
        address = escape(f"http://{host}:{listening.port}")
        _note(watching, f"{name}   chat {address}/   OpenAI's API {address}/v1")
        listen(door_app(door), port, grace_seconds=listening.grace_seconds)


def _note(console: Console, text: str) -> None:
    """Where standard error can't be written, as on a full disk, its notes are lost, and nobody is left unanswered for it."""
    with suppress(OSError):
        console.print(text, highlight=False)
