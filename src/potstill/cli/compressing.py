"""A search with a person watching: what `compress` and `demo` share."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from rich.markup import escape
from transformers.utils.logging import disable_progress_bar

from potstill.checks import check_of_json
from potstill.cli.climbers import Watching, print_outcome
from potstill.cli.deploying import deploy
from potstill.cli.pruning import target_of
from potstill.errors import RecipeError
from potstill.evaluation import speed
from potstill.models import load_model, on_this_device
from potstill.recipe import Recipe, load_recipe
from potstill.recipe.decode import decode_with
from potstill.recipe.searching import build_search
from potstill.reports.compression import write_compression
from potstill.runs import RunFolder, manifest
from potstill.search import Chosen, Search, documents_needed, expected_error, margin
from potstill.search.bar import METRICS, check_something_to_keep
from potstill.search.findings import findings
from potstill.search.four_bits import FourBits, in_four_bits
from potstill.search.planning import Plan, plan_of, tokens_in
from potstill.search.timing import rates_of

_TASK, _MINUTES = "lm-eval:", "minutes.json"


def recipe_of(
    teacher: str,
    data: Sequence[str],
    keep: Sequence[str],
    *,
    tokens: str | None,
    until_flat: bool,
    max_size: str | None,
    min_speed: float | None,
    sets: Sequence[str],
) -> Recipe:
    """The recipe that the command line describes; TEACHER may be one already, and the options then change it."""
    if teacher.endswith(".toml"):
        changes = [f"data.source={json.dumps(list(data))}"] if data else []
        changes += [f"student.bars=[{', '.join(_inline(_bar(one)) for one in keep)}]"] if keep else []
        changes += [f"training.tokens={_tokens(tokens)}"] if tokens else []
        changes += ["student.until_flat=true"] if until_flat else []
        changes += [f"student.min_speed={min_speed}"] if min_speed is not None else []
        changes += [f"student.{name}={amount}" for name, amount in _largest(max_size).items()]
        return load_recipe(Path(teacher), sets=[*changes, *sets])
    if not data:
        raise RecipeError("what is there to learn from? Say --data FILE, a folder, a data set, or standard-library")
    if not keep and max_size is None and min_speed is None:
        raise RecipeError(
            "what must the student keep? Say --keep 95% (of the teacher's next-token accuracy), or how large it may be (--max-size)"
        )
    student: dict[str, object] = {"kind": "search", "bars": [_bar(one) for one in keep], "until_flat": until_flat}
    if min_speed is not None:
        student["min_speed"] = min_speed
    student |= _largest(max_size)
    table: dict[str, object] = {
        "name": re.sub(r"\W+", "-", Path(teacher).stem).strip("-") or "compressed",
        "teacher": {"model": teacher},
        "student": student,
        "data": {"source": data[0] if len(data) == 1 else list(data)},
        "training": {"tokens": _tokens(tokens)} if tokens else {"epochs": 4.0},
    }
    training = table["training"]
    assert isinstance(training, dict)
    training |= {"learning_rate": 5e-4, "rows": 8}
    return decode_with(table, sets, source="potstill compress")


def _largest(max_size: str | None) -> dict[str, int]:
    """What --max-size says, as a setting of [student]."""
    if max_size is None:
        return {}
    size = target_of(max_size)
    if size.kind not in ("parameters", "bytes"):
        raise RecipeError(f"--max-size is a number of parameters (80M) or of bytes (150MB), found {max_size!r}")
    return {f"max_{size.kind}": int(size.amount)}


def run_search(
    recipe: Recipe,
    out: Path,
    console: Console,
    *,
    minutes: float | None = None,
    dry_run: bool = False,
    push_to_hub: str | None = None,
    put_to_work: bool = False,
) -> dict[str, object]:
    """Build, plan, search, and leave student/, report.html, report.md, scores.json; what it found."""
    disable_progress_bar()
    processes = Accelerator()
    console.quiet = not processes.is_main_process
    known, asked = _known_of_minutes(out, minutes), recipe
    if known:
        recipe = shortened(recipe, int(str(known["tokens"])))
    with processes.main_process_first():
        search = build_search(recipe, out, say=lambda text: console.print(f"[dim]{escape(text)} …[/dim]"))
    batches = search.job.batches
    console.print(f"[dim]timing a few steps of {batches.rows:,} × {batches.length:,} tokens …[/dim]")
    rates = rates_of(search.job)
    of = check_of_json(search.job.made_from["teacher"])
    if minutes is not None and (not known or known.get("of", of) != of):
        search = build_search(asked, out, say=lambda _: None) if known else search
        tokens = tokens_in(search, rates, 60 * minutes)
        console.print(f"[dim]in {minutes:g} minutes a student can read {tokens:,} tokens[/dim]")
        search = build_search(shortened(asked, tokens), out, say=lambda _: None)
        if not dry_run:
            search.folder.keep_json(_MINUTES, {"minutes": minutes, "tokens": tokens, "of": of})
    plan = plan_of(search, rates)
    again = search.unsettled()
    for redone in again:
        console.print(f"[yellow]{redone.step}: done again, because {escape(redone.why)}[/yellow]")
    if not dry_run:
        search.settle()
    _print_plan(search, plan, console, claims=not (dry_run and again))
    if dry_run:
        return {}
    chosen, four_bits = _searched(search, console)
    speeds = _speeds(search) if search.job.speed else {}
    found = findings(search, chosen.candidate.name, holds=chosen.holds, four_bits=four_bits)
    search.folder.write_json("scores.json", found)
    if not (search.path / "manifest.json").exists():
        search.folder.write_json("manifest.json", manifest({"plan": asdict(plan)}))
    if processes.is_main_process:
        write_compression(search.path)
        print_outcome(found, speeds, out, console)
        if put_to_work:
            deploy(search, recipe.teacher.model, console)
            write_compression(search.path)
        if push_to_hub is not None:
            _push(search, found, push_to_hub, console)
    return found


def _known_of_minutes(out: Path, minutes: float | None) -> dict[str, object]:
    """What was decided when the search began, of which text and teacher: a machine is not as fast every time it is asked."""
    if minutes is None or not (out / _MINUTES).exists():
        return {}
    known = RunFolder(out).read_json(_MINUTES)
    return known if known.get("minutes") == minutes else {}


def shortened(recipe: Recipe, tokens: int) -> Recipe:
    """The same with so many tokens a student."""
    training = recipe.training.model_copy(update={"tokens": tokens, "steps": None, "epochs": None})
    return recipe.model_copy(update={"training": training})


def _searched(search: Search, console: Console) -> tuple[Chosen, FourBits | None]:
    chosen: Chosen | None = None
    four_bits: FourBits | None = None
    with Watching(console, search) as watching:
        for event in search.run():
            watching.show(event)
            if isinstance(event, Chosen):
                chosen = event
        assert chosen is not None
        if search.job.int4:
            for event in in_four_bits(search, chosen.candidate.name):
                if isinstance(event, FourBits):
                    four_bits = event
                else:
                    watching.show(event)
    return chosen, four_bits


def _speeds(search: Search) -> dict[str, object]:
    if not (search.path / "speeds.json").exists():
        models = {"teacher": search.job.teacher.model, "distilled": on_this_device(load_model(search.path / "student"))}
        search.folder.write_json("speeds.json", {name: asdict(speed(model)) for name, model in models.items()})
    return {name: asdict(timed) for name, timed in search.folder.speeds().items()}


def _print_plan(search: Search, plan: Plan, console: Console, *, claims: bool) -> None:
    """Before anything starts: what is asked, of what, and what it will take."""
    job = search.job
    texts = job.texts
    for bar in job.bars:
        console.print(f"bar      [bold]{escape(str(bar))}[/bold]")
    console.print(
        f"text     {texts.learn.num_tokens:,} tokens to learn from, {texts.search.num_tokens:,} to choose by, "
        f"{texts.held_out.num_tokens:,} in {len(texts.held_out):,} documents to judge by"
    )
    console.print(
        f"plan     about {plan.seconds / 60:,.0f} min, {plan.disk / 1e9:,.1f} GB of disk, {plan.memory / 1e9:,.1f} GB of memory: "
        f"{job.settings.steps:,} steps of {job.batches.rows} × {job.length} tokens for the student, two to three times as many for all"
    )
    if claims and search.looks != job.looks:
        console.print(
            f"looks    {search.looks}, where the recipe says {job.looks}: they are fixed when the first candidate is judged, and those "
            "judged for other bars count too"
        )
    for bar in job.bars if claims else ():
        for evidence in (search.teacher_chosen_by, search.teacher_judged_by):
            check_something_to_keep(bar, evidence)
        error = expected_error(bar, search.teacher_judged_by)
        n = len(search.teacher_judged_by.answers.get(bar.metric, texts.held_out.keys))
        needed = documents_needed(error, n, 0.02, looks=search.looks)
        enough = "" if needed <= n else f"; to show one that is 2 points above it takes about {needed:,}"
        console.print(
            f"claim    from {n:,} {'questions' if bar.metric not in METRICS else 'documents'} with {search.looks} looks, a student must "
            f"truly be about {100 * margin(error, looks=search.looks):.1f} points above the bar{enough}"
        )


def _push(search: Search, found: dict[str, object], repository: str, console: Console) -> None:
    from potstill.export.hub import push_folder

    if not found["holds"]:
        console.print("[yellow]not uploaded: the student misses the bar[/yellow]")
        return
    console.print(f"uploaded {escape(push_folder(search.path / 'student', repository))}")


def _bar(text: str) -> dict[str, object]:
    """What "95%", "bits=90%", "mine.jsonl=90%" ask for."""
    metric, equals, amount = text.rpartition("=")
    metric = metric.strip() if equals else "accuracy"
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", amount)
    if match is None:
        raise RecipeError(
            f"--keep is a share of what the teacher reaches, as 95%, bits=90%, or questions.jsonl=90%, found {text!r}"
        )
    least = float(match[1])
    least = least / 100 if "%" in amount or least > 1 else least
    if least > 1:
        raise RecipeError(f"--keep {text}: a share of what the teacher reaches is at most 100%, found {least:.0%}")
    if metric in METRICS:
        return {"metric": metric, "least": least}
    if metric.endswith((".jsonl", ".json")):
        return {"metric": "questions", "questions": metric, "least": least}
    if metric.endswith((".yaml", ".yml")) or metric.startswith(_TASK):
        return {"metric": "task", "task": metric.removeprefix(_TASK), "least": least}
    raise RecipeError(
        f"--keep {text}: {metric!r} is none of {', '.join(METRICS)}, nor a file of questions (.jsonl), nor a task of "
        f"lm-evaluation-harness ({_TASK}NAME, or a .yaml file)"
    )


def _inline(bar: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in bar.items()) + " }"


def _tokens(text: str) -> int:
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([kmbKMB]?)\s*", text)
    if match is None or not (
        found := int(Decimal(match[1].replace("_", "")) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match[2].lower()])
    ):
        raise RecipeError(f"--tokens is a number of tokens, as 500000, 500k or 5M, found {text!r}")
    return found
