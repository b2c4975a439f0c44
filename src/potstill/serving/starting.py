"""Engines for a door: a GGUF file in llama.cpp in this process, or a server that runs already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from potstill.engines import LlamaServer
from potstill.errors import ModelError, RecipeError
from potstill.routing import AnsweredBy, Policy
from potstill.serving.limits import Line, Timeouts
from potstill.serving.metrics import Metrics
from potstill.serving.modes import Cascade, Mode, ModeName, OneEngine, TeacherDown
from potstill.serving.upstreams import Upstream

_AT_ONCE_OF_A_SERVER = 256
# As `potstill export` leaves them in a run.
_GGUF_OF_A_RUN = "export-*/*.gguf"
# The word for the model that ships inside the package, which is a folder of safetensors.
_POCKET = "pocket"


@dataclass(frozen=True)
class Served:
    """One engine: a GGUF file, a folder with one, a run that was exported to one, or http://HOST/v1#NAME; `key` if it wants one."""

    source: str
    key: str | None = field(default=None, repr=False)

    @property
    def is_url(self) -> bool:
        """Whether it runs already."""
        return self.source.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Running:
    """How engines run.

    context, threads, parallel   of llama.cpp, as for LlamaServer
    in_flight                    requests that one engine works on at once; None: `parallel` for llama.cpp, 256 for a server
    queue, queue_seconds         requests that wait for one engine, and for how long
    """

    context: int = 2048
    threads: int | None = None
    parallel: int = 4
    in_flight: int | None = None
    queue: int = 256
    queue_seconds: float = 60.0
    timeouts: Timeouts = field(default_factory=Timeouts)


@contextmanager
def mode_of(
    name: ModeName,
    engines: dict[AnsweredBy, Served],
    running: Running,
    metrics: Metrics,
    *,
    policy: Policy | None = None,
    teacher_down: TeacherDown = "error",
) -> Iterator[Mode]:
    """Start what must run here, and end it afterwards. RecipeError for engines that the mode has no use for, or lacks."""
    needed = {"student": {"student"}, "teacher": {"teacher"}}.get(name, {"student", "teacher"})
    if needed != set(engines):
        have = ", ".join(engines) or "none"
        # The student is the command's first word; the teacher an option.
        how = " (--teacher)" if "teacher" in needed - set(engines) else ""
        raise RecipeError(f"mode {name} needs {' and '.join(sorted(needed))}{how}, and was given {have}")
    if (name == "routed") != (policy is not None):
        raise RecipeError("a policy says who answers in mode routed, and in no other: `potstill route` writes one")
    started: list[LlamaServer] = []
    try:
        if name == "speculative":
            yield OneEngine(name, _speculative(engines["teacher"], engines["student"], running, metrics, started))
            return
        found = {role: _engine(role, served, running, metrics, started) for role, served in engines.items()}
        if policy is not None:
            yield Cascade(found["student"], found["teacher"], policy, metrics, teacher_down=teacher_down)
        else:
            [engine] = found.values()
            yield OneEngine(name, engine)
    finally:
        for server in started:
            server.stop()


def gguf_file(source: str) -> Path:
    """The GGUF file that is meant. ModelError where there is none, or more than one."""
    path = Path(source)
    if path.is_file():
        return path
    if source == _POCKET and not path.exists():
        raise ModelError(
            f"llama.cpp runs GGUF files, and {_POCKET} is none yet: potstill export {_POCKET} --to gguf --data standard-library "
            f"--out {_POCKET}-q8_0, then give {_POCKET}-q8_0"
        )
    if not path.is_dir():
        raise ModelError(
            f"there is no {source}: give a GGUF file, a folder with one, a run, or http://HOST:PORT/v1#NAME"
        )
    found = sorted(path.glob("*.gguf")) or sorted(path.glob(_GGUF_OF_A_RUN))
    if not found:
        raise ModelError(
            f"{source} holds no GGUF file, which llama.cpp runs: {_export_of(path)}, or give the address of a server that runs it "
            "(http://HOST:PORT/v1#NAME)"
        )
    if len(found) > 1:
        raise ModelError(f"{source} holds {len(found)} GGUF files: give one of {', '.join(map(str, found))}")
    return found[0]


def _export_of(folder: Path) -> str:
    """The commands that make a GGUF file of the model there, and serve it."""
    folder = Path(os.path.normpath(folder))
    run = folder.parent if folder.name == "student" and (folder.parent / "recipe.toml").exists() else folder
    if (run / "recipe.toml").exists():
        return f"write one (potstill export {run} --to gguf), then give the run ({run})"
    out = folder.with_name(f"{folder.name}-q8_0")
    return f"write one (potstill export {folder} --to gguf --data TEXT --out {out}), then give {out}"


def _engine(
    role: AnsweredBy, served: Served, running: Running, metrics: Metrics, started: list[LlamaServer]
) -> Upstream:
    if served.is_url:
        url, _, name = served.source.partition("#")
        if not name:
            raise RecipeError(f"{served.source}: say which model of the server answers, as {url}#NAME")
        at_once = running.in_flight or _AT_ONCE_OF_A_SERVER
        return _upstream(role, url.rstrip("/"), running, metrics, at_once=at_once, model=name, key=served.key)
    server = LlamaServer(
        gguf_file(served.source), context=running.context, threads=running.threads, parallel=running.parallel
    )
    return _started(role, server, running, metrics, started)


def _speculative(
    teacher: Served, student: Served, running: Running, metrics: Metrics, started: list[LlamaServer]
) -> Upstream:
    if teacher.is_url or student.is_url:
        raise RecipeError(
            "mode speculative runs both models in llama.cpp here: give two GGUF files. A server that drafts by itself (vLLM's "
            "--speculative-config) is served as --mode teacher"
        )
    server = LlamaServer(
        gguf_file(teacher.source),
        context=running.context,
        threads=running.threads,
        parallel=running.parallel,
        draft=gguf_file(student.source),
    )
    return _started("teacher", server, running, metrics, started)


def _started(
    role: AnsweredBy, server: LlamaServer, running: Running, metrics: Metrics, started: list[LlamaServer]
) -> Upstream:
    server.start()
    started.append(server)
    at_once = running.in_flight or running.parallel
    return _upstream(role, f"{server.url}/v1", running, metrics, at_once=at_once, model=None, key=server.key)


def _upstream(
    role: AnsweredBy,
    url: str,
    running: Running,
    metrics: Metrics,
    *,
    at_once: int,
    model: str | None,
    key: str | None,
) -> Upstream:
    line = Line(role, at_once=at_once, most_waiting=running.queue, seconds=running.queue_seconds)
    return Upstream(role, url, model=model, key=key, line=line, timeouts=running.timeouts, metrics=metrics)
