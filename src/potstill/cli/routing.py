"""A calibration with a person watching: who answers what, what is promised, where it lies."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from potstill.cli.labelling import saying
from potstill.data import Judging, judge_of
from potstill.errors import DataError, RecipeError, RunDirectoryError, ServerError
from potstill.reports import Table as Figures
from potstill.reports import write_report
from potstill.reports.markdown import write_markdown
from potstill.reports.routing import routing_page, sentence
from potstill.routing import SIGNALS, TOP_LOGPROBS
from potstill.routing.answering import ChoosingWriter, scored
from potstill.routing.calibration import AUTO, Asked, Calibrated, Wanted, calibrate
from potstill.routing.confidence import CLASSIFIER
from potstill.routing.curves import Costs
from potstill.routing.queries import Query, Scored, is_scored, read_queries, read_scored
from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer, manifest
from potstill.runs.facts import json_of
from potstill.writing import (
    Asking,
    Journal,
    LocalWriter,
    Sampling,
    Server,
    ServerWriter,
    Writer,
    begun_with,
    totals,
    write,
)

_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Answers:
    """Who answers, and how answers are judged."""

    student: str | None
    teacher: str | None
    judging: Judging
    how: str
    is_chat: bool
    new_tokens: int
    rows: int
    key_from: str | None


@dataclass(frozen=True)
class Answerer:
    """Someone who answers, and what decides the answers."""

    writer: Writer
    identity: Mapping[str, object]
    words: str


def route_queries(
    source: str, out: Path, answers: Answers, wanted: Wanted, costs: Costs | None, console: Console, watching: Console
) -> None:
    """Read, ask, calibrate, write policy and report."""
    _check(answers, wanted)
    say = saying(watching)
    judge = judge_of(answers.judging, answers.how)
    if answers.student is None or answers.teacher is None:
        if not is_scored(source):
            raise RecipeError(
                f"{source} holds queries without answers: say who answers (--student and --teacher), or give rows with student_score, "
                "teacher_score and logprobs"
            )
        found, asked, names = (
            read_scored(source, judge),
            Asked("given", "given", "given"),
            ("the student", "the teacher"),
        )
    else:
        say(f"reading {source}")
        queries = read_queries(source, is_chat=answers.is_chat)
        found, asked, measured = _asked(queries, answers, out, say, watching)
        costs, names = (
            costs or measured,
            tuple(
                Path(one.partition("#")[2] or one).name.removesuffix(".gguf")
                for one in (answers.student, answers.teacher)
            ),
        )
    say("calibrating")
    calibrate_and_write(found, asked, wanted, out, source, (names[0], names[1]), costs, console)


def calibrate_and_write(
    found: Scored,
    asked: Asked,
    wanted: Wanted,
    out: Path,
    source: str,
    names: tuple[str, str],
    costs: Costs | None,
    console: Console,
) -> None:
    """From scored queries to policy.json and its report in `out`; `names`: what student and teacher are called in it."""
    calibrated = calibrate(found, asked, wanted)
    _write(calibrated, out, source, costs, names, wanted)
    _print(calibrated, out, console, costs, names)


def share_of(text: str, option: str, *, whole: bool = False) -> float:
    """What "97%" or "0.97" says: more than 0 and less than 1, or 1 where the whole is allowed. RecipeError otherwise."""
    match = _SHARE.fullmatch(text)
    value = float(match[1]) / (100 if match[2] else 1) if match is not None else 0.0
    if not 0 < value <= 1 or (value == 1 and not whole):
        raise RecipeError(f"{option} is a share, as 97% or 0.97, found {text!r}")
    return value


def cost_of(text: str | None) -> Costs | None:
    """What "1:8" says. RecipeError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)\s*", text)
    if match is None or float(match[2]) == 0:
        raise RecipeError(f"--cost is what one query costs the student and the teacher, as 1:8, found {text!r}")
    return Costs(float(match[1]), float(match[2]), "as given")


def _check(answers: Answers, wanted: Wanted) -> None:
    if (answers.student is None) != (answers.teacher is None):
        raise RecipeError(
            "both answer or none: give --student and --teacher, or neither for rows that are answered already"
        )
    if wanted.by not in (AUTO, CLASSIFIER, *SIGNALS):
        raise RecipeError(f"--by is one of {', '.join((AUTO, *SIGNALS, CLASSIFIER))}, found {wanted.by!r}")
    for model in (answers.student, answers.teacher):
        if model is not None and _is_server(model) and not model.partition("#")[2]:
            raise RecipeError(f"{model}: say which model of the server answers, as {model.partition('#')[0]}#NAME")
    if answers.key_from is not None and not os.environ.get(answers.key_from, "").strip():
        raise RecipeError(f"--key-from: the environment has no {answers.key_from}, which should hold the servers' key")
    if answers.judging != "exact" and not answers.how:
        raise RecipeError(f"--judge {answers.judging} needs --how: the pattern of regex, or module:function of python")


def _asked(
    queries: tuple[Query, ...], answers: Answers, out: Path, say: Callable[[str], None], watching: Console
) -> tuple[Scored, Asked, Costs]:
    """Both models' answers, what was missing of them asked now; and seconds a query."""
    prompts, is_choice = [one.prompt for one in queries], bool(queries[0].choices)
    if is_choice and any(map(_is_server, filter(None, (answers.student, answers.teacher)))):
        raise RecipeError(
            "servers give no log-probabilities of choices that they didn't write: give a model folder, or leave `choices` out and let the "
            "answer be written"
        )
    with ExitStack() as stack:
        journals, words, seconds = [], [], []
        for name, model in (("student", answers.student), ("teacher", answers.teacher)):
            assert model is not None
            path = out / "answers" / f"{name}.jsonl"
            answerer = _answerer(model, queries, answers, begun_with(path) or {}, say)
            journal = stack.enter_context(Journal(path, answerer.identity))
            _watch(name, prompts, answerer.writer, journal, watching)
            journals.append(journal)
            words.append(answerer.words)
            seconds.append(totals(prompts, journal).seconds / len(prompts))
        say("judging")
        found = scored(queries, journals[0], journals[1], judge_of(answers.judging, answers.how))
    if not found.teacher.any():
        raise DataError(
            f"the teacher gets no query right: no share of its quality can be promised. Look at its answers "
            f"({out / 'answers' / 'teacher.jsonl'}), and at how they are judged (--judge, now {answers.judging})"
        )
    return (
        found,
        Asked("choice" if is_choice else "written", *words),
        Costs(seconds[0], seconds[1], unit="seconds, measured"),
    )


def _answerer(
    model: str,
    queries: tuple[Query, ...],
    answers: Answers,
    begun: Mapping[str, object],
    say: Callable[[str], None],
) -> Answerer:
    """`begun`: what the journal is of that its answers go on in."""
    sampling = Sampling(temperature=0.0, max_new_tokens=answers.new_tokens)
    choices = {one.prompt.id: one.choices for one in queries if one.choices}
    asked: dict[str, object] = (
        {"answering": "choice"} if choices else {"answering": "written", "new_tokens": answers.new_tokens}
    )
    if _is_server(model):
        is_chat = answers.is_chat or not isinstance(queries[0].prompt.sent, str)
        return _server(model, answers, sampling, asked, is_chat=is_chat)
    from potstill.models import load_model, load_tokenizer, on_this_device, task_of
    from potstill.recipe.number_format import hold_as_begun_

    say(f"loading {model}")
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    if task_of(loaded) != "causal":
        raise RecipeError(f"{model} is a {type(loaded).__name__}, which can't answer: use a causal language model")
    fingerprint = fingerprint_of_model(loaded)
    # Not where it lies: a model that was moved goes on with the same journal.
    identity = {"fingerprint": fingerprint, "tokenizer": fingerprint_of_tokenizer(tokenizer), **asked}
    dtype = hold_as_begun_(loaded, "auto", begun.get("dtype"))
    if "dtype" in begun or not begun:  # a journal that doesn't say its own goes on as it is
        identity["dtype"] = dtype
    here = on_this_device(loaded)
    if choices:
        writer: Writer = ChoosingWriter(here, tokenizer, choices)
    else:
        writer = LocalWriter(here, tokenizer, sampling, answers.rows, TOP_LOGPROBS)
    return Answerer(writer, identity, f"{model} {fingerprint}")


def _is_server(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _server(model: str, answers: Answers, sampling: Sampling, asked: dict[str, object], *, is_chat: bool) -> Answerer:
    url, _, name = model.partition("#")
    key = None if answers.key_from is None else os.environ[answers.key_from].strip()
    endpoint = "chat" if is_chat else "completions"
    asking = Asking(name, sampling, endpoint, TOP_LOGPROBS)
    # Not where it is: a server that is started again elsewhere goes on with the same journal.
    identity = {"model": name, "endpoint": endpoint, "top_logprobs": TOP_LOGPROBS, **asked}
    return Answerer(ServerWriter(Server(url, key), asking, answers.rows), identity, f"{name} on a server")


def _watch(name: str, prompts: list, writer: Writer, journal: Journal, console: Console) -> None:
    """Ask what is missing. ServerError where something is still missing then."""
    columns = (
        TextColumn(f"[bold]{name}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} queries"),
    )
    done = None
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        for done in write(prompts, writer, journal):
            bar.update(task, total=done.total, completed=done.done + done.unanswered)
    assert done is not None
    if done.unanswered:
        raise ServerError(
            f"{done.unanswered:,} of {len(prompts):,} queries have no answer of the {name} yet ({done.reason}): the same command asks again"
        )
    there = len(prompts) - done.total
    console.print(
        f"[green]✓[/green] {name}: {done.done:,} queries answered in {done.seconds:,.0f} s, {there:,} were there already"
    )
    if empty := sum(not journal.read(one.id).samples for one in prompts):
        console.print(f"[yellow]{empty:,} queries are too long for the {name}: they count as answered wrongly[/yellow]")


def _write(
    found: Calibrated, out: Path, source: str, costs: Costs | None, names: tuple[str, str], wanted: Wanted
) -> None:
    page = routing_page(found, student=names[0], teacher=names[1], costs=costs)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{out} can't be written: {error.strerror or error}") from error
    results = {
        "source": source,
        "answering": found.policy.calibration.answering,
        "said": sentence(found),
        "promise": asdict(found.policy.promise) | {"threshold": found.policy.threshold, "queries_needed": found.needed},
        "random": {"same_quality": found.random_share, "same_promise": found.random_promised},
        "signals": [asdict(one) for one in found.qualities],
        "figures": {name: asdict(score) for name, score in found.curve.figures.items()},
        "domains": [asdict(one) for one in found.domains],
        "cost": None if costs is None else asdict(costs) | {"relative": costs.relative(found.policy.promise.share)},
        "curve": {
            name: getattr(found.curve, name).tolist()
            for name in ("shares", "quality", "low", "high", "oracle", "chance")
        },
    }
    for name, content in (
        ("route.json", results),
        ("manifest.json", manifest({"wanted": asdict(wanted), "source": source})),
    ):
        part = out / f"{name}.part"
        try:
            part.write_text(json_of(content), "utf-8")
            part.replace(out / name)
        except OSError as error:
            raise RunDirectoryError(f"can't write {out / name}: {error.strerror or error}") from error
    write_report(page, out / "report.html")
    write_markdown(page, out / "report.md")
    found.policy.save(out / "policy.json")  # last: where it is, all else is


def _print(found: Calibrated, out: Path, console: Console, costs: Costs | None, names: tuple[str, str]) -> None:
    page = routing_page(found, student=names[0], teacher=names[1], costs=costs)
    console.print()
    console.print(_table(page.tables[0]))
    style = "green" if found.policy.threshold is not None else "yellow"
    console.print(f"\n[{style}]{escape(sentence(found))}[/{style}]")
    best = found.qualities[0]
    # Where the student is as good on every query, or on none, nothing is ranked.
    ranked = f"AUROC {best.auroc:.3f}, " if math.isfinite(best.auroc) else ""
    console.print(f"gone by  {best.name}: {ranked}calibration error {best.ece:.3f}")
    if found.num_repeated:
        console.print(f"[dim]left out: {found.num_repeated:,} queries that were asked already[/dim]")
    if found.untried:
        console.print(f"[dim]no classifier: {escape(found.untried)}[/dim]")
    if costs is not None:
        console.print(
            f"cost     {costs.relative(found.policy.promise.share):.0%} of asking the teacher alone ({costs.student:.3g} and "
            f"{costs.teacher:.3g} a query, {costs.unit}); it pays from a share of {costs.break_even:.0%}"
        )
    console.print(
        f"policy   [bold]{escape(str(out / 'policy.json'))}[/bold]\nreport   {escape(str(out / 'report.html'))}"
    )


def _table(figures: Figures) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title=figures.caption, title_justify="left")
    table.add_column(figures.names)
    for column in figures.columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in figures.rows:
        table.add_row(row.name, *(cell.value for cell in row.cells), style="bold green" if row.is_highlighted else None)
    return table
