"""`potstill serve STUDENT`: a door that speaks OpenAI's API, in front of a student, its teacher, or both."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ServeMode(StrEnum):
    """Who answers."""

    student = "student"
    teacher = "teacher"
    speculative = "speculative"
    routed = "routed"


class WhenTeacherFails(StrEnum):
    """Who answers what the student is not sure of when its teacher does not answer."""

    error = "error"
    student = "student"


_ENGINE = "a GGUF file, a folder with one, an exported run, or a server: http://HOST:PORT/v1#NAME."
_KEY = "The environment variable that holds"


# Long: one option a line.
def serve(
    student: Annotated[str | None, typer.Argument(help=f"The student: {_ENGINE}", show_default=False)] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", "-t", help=f"The teacher: {_ENGINE}", show_default=False)
    ] = None,
    mode: Annotated[
        ServeMode | None,
        typer.Option(help="Who answers. Default: routed with a policy, student without.", show_default=False),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", "-p", help="Of `potstill route`: says who answers.", show_default=False)
    ] = None,
    teacher_down: Annotated[
        WhenTeacherFails,
        typer.Option(help="Routed, not sure, and the teacher fails: an error, or the student's answer."),
    ] = WhenTeacherFails.error,
    host: Annotated[
        str, typer.Option(help="Where to listen. Anything but this machine needs --key-env.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=1, max=65535)] = 8000,
    key_env: Annotated[
        str | None, typer.Option(help=f"{_KEY} the key that clients must have.", show_default=False)
    ] = None,
    student_key_env: Annotated[
        str | None, typer.Option(help=f"{_KEY} the key of the student's server.", show_default=False)
    ] = None,
    teacher_key_env: Annotated[
        str | None, typer.Option(help=f"{_KEY} the key of the teacher's server.", show_default=False)
    ] = None,
    context: Annotated[int, typer.Option(help="llama.cpp: tokens of a request and its answer.", min=16)] = 2048,
    threads: Annotated[int | None, typer.Option(help="llama.cpp: threads of an engine. Default: all.", min=1)] = None,
    parallel: Annotated[int, typer.Option(help="llama.cpp: requests answered at once.", min=1)] = 4,
    in_flight: Annotated[
        int | None,
        typer.Option(help="Requests an engine has at once. Default: --parallel, or 256 of a server.", min=1),
    ] = None,
    queue: Annotated[
        int, typer.Option(help="Requests that wait for an engine; others are told to come again.", min=0)
    ] = 256,
    queue_seconds: Annotated[float, typer.Option(help="How long one waits at most.", min=0.01)] = 60.0,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, at most; and where no number is asked.", min=1)] = 1024,
    max_body: Annotated[float, typer.Option(help="Of a request, at most, in MiB.", min=0.001)] = 1.0,
    connect_seconds: Annotated[float, typer.Option(help="To connect to an engine.", min=0.01)] = 5.0,
    first_seconds: Annotated[float, typer.Option(help="Until the first byte of an engine's stream.", min=0.01)] = 120.0,
    idle_seconds: Annotated[float, typer.Option(help="Between two parts of a stream.", min=0.01)] = 60.0,
    answer_seconds: Annotated[float, typer.Option(help="For a whole answer, not streamed.", min=0.01)] = 600.0,
    grace_seconds: Annotated[float, typer.Option(help="At the end: for answers on their way.", min=1)] = 30.0,
    allow_field: Annotated[
        list[str] | None,
        typer.Option(help="Pass this field of requests on to engines, unseen; may be repeated.", show_default=False),
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Also log what was asked.")] = False,
) -> None:
    """Serve a student, its teacher, or both behind OpenAI's API, with a chat page at /; says who answered, and why."""
    from potstill.errors import RecipeError

    _check_extra()
    from potstill.cli.serving import Listening, key_in, serve_with
    from potstill.routing import AnsweredBy, Policy
    from potstill.serving import Limits, Running, Served, Timeouts

    engines: dict[AnsweredBy, Served] = {}
    if student is not None:
        engines["student"] = Served(student, key_in(student_key_env, "--student-key-env"))
    if teacher is not None:
        engines["teacher"] = Served(teacher, key_in(teacher_key_env, "--teacher-key-env"))
    if mode is None and policy is None and len(engines) == 2:
        raise RecipeError("two models: say who answers, by --policy FILE (routed) or --mode speculative")
    name = mode.value if mode else "routed" if policy else "student" if student else "teacher"
    running = Running(
        context=context,
        threads=threads,
        parallel=parallel,
        in_flight=in_flight,
        queue=queue,
        queue_seconds=queue_seconds,
        timeouts=Timeouts(connect_seconds, first_seconds, idle_seconds, answer_seconds),
    )
    limits = Limits(int(max_body * 2**20), max_tokens, more_fields=frozenset(allow_field or ()))
    listening = Listening(host, port, key_in(key_env, "--key-env"), grace_seconds, log_prompts)
    said = None if policy is None else Policy.load(policy)
    serve_with(name, engines, running, limits, listening, policy=said, teacher_down=teacher_down.value)


def _check_extra() -> None:
    import importlib.util

    from potstill.errors import MissingExtraError

    for package in ("httpx", "starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra="serve", purpose="A door in front of models")
