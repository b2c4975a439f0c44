"""After a search: the student written for its engine, tried as its teacher's draft, and a policy of what it may answer in its place.

What can't be done is said, and is no failure.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from potstill.cli.drafting import Wanted as Drafted
from potstill.cli.drafting import run_draft
from potstill.cli.exporting import export_and_measure, wanted_of
from potstill.cli.routing import Answers, calibrate_and_write, route_queries
from potstill.data import TokenCorpus, prompts_of
from potstill.errors import DataError, MissingExtraError, ModelError, PotstillError, ServerError
from potstill.evaluation import Questions
from potstill.evaluation.measuring import written_whole
from potstill.models import load_model, on_this_device, task_of
from potstill.reports.deployment import NEXT_TOKENS, is_anothers, is_measured
from potstill.routing.calibration import Asked, Wanted
from potstill.routing.curves import Costs
from potstill.routing.places import scored_places
from potstill.runs import RunFolder, fingerprint_of_model, held_out_sample
from potstill.search import Search
from potstill.search.compression import DEPLOYED
from potstill.search.kept import Kept

_KIND, _TOKENS, _PROMPTS, _PROMPT_TOKENS = "q8_0", 4_000, 16, 32
# So many tokens of held-out text are read for the router; of them places are drawn.
_READ = 16_000


def deploy(search: Search, teacher: str, console: Console) -> None:
    """What DEPLOYED names, in the search's folder: each is made once, and goes when the student or its held-out text becomes another."""
    if task_of(search.job.teacher.model) != "causal":
        console.print(
            "[dim]only models that write text are exported for llama.cpp, tried as drafts and routed to[/dim]"
        )
        return
    export, draft, route = (search.path / name for name in DEPLOYED)
    if not ((export / "export.json").exists() and is_measured(RunFolder(export).read_json("export.json"))):
        shutil.rmtree(export, ignore_errors=True)  # what a kill left
        _export(search, export, console)
    if not (draft / "draft.json").exists():
        _draft(search, teacher, draft, console)
    _route(search, teacher, route, console)


def queries_of(asked: Questions) -> list[dict[str, object]]:
    """Rows that are answered as the questions were: choices are left out where what is written was judged."""
    rows: list[dict[str, object]] = [{"prompt": one.prompt, "answer": one.answer} for one in asked.items]
    if asked.judging == "choice":
        return [row | {"choices": one.choices} for row, one in zip(rows, asked.items, strict=True)]
    return rows


def _draft(search: Search, teacher: str, folder: Path, console: Console) -> None:
    beginning = min(_PROMPT_TOKENS, search.job.length // 2)
    wanted = Drafted(_PROMPTS, beginning, beginning, (0.0, 1.0), 6, "2", "float32", None, None)
    try:
        prompts = _prompts(search, search.job.texts.held_out, folder, beginning)
        run_draft(teacher, str(search.path / "student"), str(prompts), folder, wanted, console)
    except (ModelError, DataError) as error:
        console.print(f"[yellow]not tried as a draft: {escape(str(error))}[/yellow]")


def _route(search: Search, teacher: str, folder: Path, console: Console) -> None:
    """By the questions that a bar is made of, those it was judged by; without any, by next tokens of held-out text."""
    asked = next((judged for _, judged in search.job.questions.values() if isinstance(judged, Questions)), None)
    facts = {"queries": "next tokens" if asked is None else asked.fingerprint}
    try:
        if is_anothers(folder):
            console.print(
                f"{escape(str(folder))} is of other queries and stays as it is: move it to have a router made here"
            )
            return
        if (why := Kept(search.folder).begin("route", facts, [folder])) is not None:
            console.print(f"[yellow]route: done again, because {escape(why)}[/yellow]")
        if (folder / "policy.json").exists():
            return
        if asked is None:
            _by_next_tokens(search, teacher, folder, console)
        else:
            _by_questions(search, teacher, asked, folder, console)
    except PotstillError as error:
        console.print(f"[yellow]no router: {escape(str(error))}[/yellow]")


def _by_next_tokens(search: Search, teacher: str, folder: Path, console: Console) -> None:
    job = search.job
    student, large = on_this_device(load_model(search.path / "student")), on_this_device(job.teacher.model)
    sample = held_out_sample(job.texts.held_out, _READ, job.length)
    found = scored_places(student, large, sample, length=job.length, size=job.teacher.num_tokens)
    asked = Asked(
        "token", *(f"{name} {fingerprint_of_model(one)}" for name, one in (("student", student), (teacher, large)))
    )
    calibrate_and_write(
        found, asked, Wanted(), folder, NEXT_TOKENS, ("the student", Path(teacher).name), _costs(search), console
    )


def _by_questions(search: Search, teacher: str, asked: Questions, folder: Path, console: Console) -> None:
    path = _rows(folder / "queries.jsonl", queries_of(asked))
    judging = "exact" if asked.judging == "choice" else asked.judging
    answers = Answers(str(search.path / "student"), teacher, judging, asked.how, False, asked.new_tokens, 8, None)
    route_queries(str(path), folder, answers, Wanted(), None, console, Console(stderr=True))


def _costs(search: Search) -> Costs | None:
    """Of a token, where speeds were measured."""
    if not (search.path / "speeds.json").exists():
        return None
    speeds = search.folder.speeds()
    student, teacher = (speeds[name].decode_tokens_per_second for name in ("distilled", "teacher"))
    return Costs(1 / student, 1 / teacher, "seconds a token, measured") if student and teacher else None


def _export(search: Search, folder: Path, console: Console) -> None:
    try:
        export_and_measure(
            str(search.path),
            wanted_of("gguf", _KIND, None, 0.1),
            console,
            data=None,
            tokens=_TOKENS,
            length=min(512, search.job.length),
            threads=None,
            out=folder,
        )
    except (ModelError, MissingExtraError, ServerError) as error:
        console.print(f"[yellow]not exported for llama.cpp: {escape(str(error))}[/yellow]")
        shutil.rmtree(folder, ignore_errors=True)


def _prompts(search: Search, held_out: TokenCorpus, folder: Path, beginning: int) -> Path:
    """Beginnings of held-out documents as rows."""
    found = prompts_of(held_out, tokens=beginning, longest=search.job.length // 2)
    tokenizer = search.job.tokenizer
    rows = [{"prompt": tokenizer.decode(found[number].tolist())} for number in range(min(_PROMPTS, len(found)))]
    return _rows(folder / "prompts.jsonl", rows)


def _rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
