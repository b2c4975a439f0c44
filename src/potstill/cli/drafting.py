"""A student tried as a draft with a person watching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from potstill.cli.draft import Precision
from potstill.data import prompts_of, read_documents, read_records, tokenize
from potstill.drafts import Costs, EngineRounds, Prompted, Rate, Trial, engine_rounds, measure_costs, speedup, try_draft
from potstill.errors import DataError, MissingExtraError, ModelError, RecipeError, RunDirectoryError, VocabularyError
from potstill.evaluation.measuring import written_whole
from potstill.models import (
    check_context,
    ends_of,
    head_of,
    hold_in_,
    load_model,
    load_shape,
    load_tokenizer,
    size_of,
    task_of,
)
from potstill.reports import write_report
from potstill.reports.drafting import draft_page, words
from potstill.runs import manifest
from potstill.runs.facts import json_of
from potstill.teachers import shared_vocabulary
from potstill.writing import LocalWriter, Sampling, read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Below, single precision has no room for any other token than the likeliest.
_LEAST_TEMPERATURE = 0.01
_ROWS_OF_PROMPTS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class Wanted:
    """The options of the command line."""

    most: int
    new_tokens: int
    prompt_tokens: int
    temperatures: tuple[float, ...]
    longest: int
    lengths: str | None
    dtype: Precision
    teacher_gguf: Path | None
    student_gguf: Path | None


def run_draft(teacher_name: str, student_name: str, source: str, out: Path, wanted: Wanted, console: Console) -> None:
    """Load, predict, measure; leaves draft.json and report.html."""
    disable_progress_bar()
    set_verbosity_error()  # transformers warns of its own call of itself
    lengths = _lengths(wanted)
    _check(wanted)
    with console.status("loading …"):
        tokenizer, students = load_tokenizer(teacher_name), load_tokenizer(student_name)
        shapes = load_shape(teacher_name), load_shape(student_name)
        size = _shared_size(*shapes, tokenizer, students, wanted)
        teacher, student = load_model(teacher_name), load_model(student_name)
        prompted = _prompted(source, teacher, student, tokenizer, size, wanted)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(f"can't make the folder {out}: {error.strerror or error}") from error
        sizes = {"teacher": asdict(size_of(teacher)), "student": asdict(size_of(student))}
        for model in (teacher, student):  # heads of one family are padded differently, and padding is never drafted
            if head_of(model).num_tokens > prompted.size:
                model.resize_token_embeddings(prompted.size)
            hold_in_(model, getattr(torch, wanted.dtype), rounds=True)
    console.print(
        f"prompts  {len(prompted.prompts):,} from {escape(source)}, up to {prompted.new_tokens} tokens written after each"
    )
    with console.status("timing both models …"):
        costs = measure_costs(teacher, student, longest=wanted.longest)
    trials = []
    for temperature in wanted.temperatures:
        with console.status("") as status:
            for event in try_draft(
                teacher, student, prompted, costs, temperature=temperature, longest=wanted.longest, lengths=lengths
            ):
                if isinstance(event, Trial):
                    trials.append(event)
                    _print(event, costs, console)
                else:
                    status.update(f"{words(temperature)}: {event} …")
    facts: dict[str, object] = {
        "teacher": teacher_name,
        "student": student_name,
        "prompts": source,
        "dtype": wanted.dtype,
        "sizes": sizes,
        "costs": asdict(costs),
        "trials": [_plain(one) for one in trials],
        "llama.cpp": [],
        "manifest": manifest({}),
    }
    _leave(facts, out)
    write_report(draft_page(student_name, teacher_name, trials, costs, dtype=wanted.dtype), out / "report.html")
    if engine := _in_engine(prompted, trials, costs, wanted, console):
        _leave(facts | {"llama.cpp": engine}, out)
    console.print(f"\nreport   [bold]{escape(str(out / 'report.html'))}[/bold]")


def _leave(facts: dict[str, object], out: Path) -> None:
    with written_whole(out / "draft.json") as part:
        part.write_text(json_of(facts), "utf-8")


def _check(wanted: Wanted) -> None:
    """What would otherwise be found out after minutes."""
    for temperature in wanted.temperatures:
        if temperature != 0 and not _LEAST_TEMPERATURE <= temperature < math.inf:
            raise RecipeError(
                f"--temperature is 0 (greedy), or {_LEAST_TEMPERATURE} and more, where not all but one token vanish; found {temperature:g}"
            )
    files = [file for file in (wanted.teacher_gguf, wanted.student_gguf) if file is not None]
    if len(files) == 1:
        raise RecipeError("llama.cpp needs both files: give --teacher-gguf and --student-gguf, or neither")
    for file in files:
        if not file.is_file():
            raise ModelError(f"there is no file {file}: give a GGUF file")
    if files and find_spec("xllamacpp") is None:
        raise MissingExtraError("xllamacpp", extra="llama", purpose="Running a GGUF file in llama.cpp")


def _lengths(wanted: Wanted) -> tuple[int, ...]:
    if wanted.lengths is None:
        return tuple(one for one in (2, 4) if one <= wanted.longest)
    try:
        lengths = tuple(int(one) for one in wanted.lengths.split(",") if one.strip())
    except ValueError:
        raise RecipeError(f"--lengths is whole numbers with commas (1,2,4), found {wanted.lengths!r}") from None
    if any(not 1 <= one <= wanted.longest for one in lengths):
        raise RecipeError(f"--lengths lie between 1 and --longest, {wanted.longest}; found {wanted.lengths!r}")
    return lengths


def _shared_size(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    students: PreTrainedTokenizerBase,
    wanted: Wanted,
) -> int:
    """How many tokens both know alike; the models may be without weights. Raises where they can't draft for each other."""
    for name, model in (("teacher", teacher), ("student", student)):
        if task_of(model) != "causal":
            raise ModelError(f"the {name} is a {type(model).__name__}, which writes no text: a draft needs two that do")
        check_context(model, wanted.prompt_tokens + wanted.new_tokens)
    heads = head_of(teacher).num_tokens, head_of(student).num_tokens
    return shared_vocabulary(tokenizer, students, teacher_rows=heads[0], student_rows=heads[1])


def _prompted(
    source: str,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    wanted: Wanted,
) -> Prompted:
    if _has_prompts(source):
        domains = [str(row.get("domain") or "") for _, row in read_records(source)][: wanted.most]
        writer = LocalWriter(teacher, tokenizer, Sampling(max_new_tokens=wanted.new_tokens))
        texts = [writer.tokens_of(one) for one in read_prompts(source, most=wanted.most, without_answers=True)]
    else:
        corpus = tokenize(read_documents(source, tokenizer=tokenizer), tokenizer)
        found = prompts_of(corpus, tokens=wanted.prompt_tokens, longest=wanted.prompt_tokens)
        some = range(0, len(found), max(1, len(found) // wanted.most))[: wanted.most]
        texts = [found[number].tolist() for number in some]
        domains = [corpus.domains[int(found.documents[number])] if corpus.domains else "" for number in some]
    if not texts:
        raise DataError(f"{source} has no prompts")
    longest = max(map(len, texts))
    for model in (teacher, student):
        check_context(model, longest + wanted.new_tokens)
    if (largest := max(map(max, texts))) >= size:
        raise VocabularyError(
            f"{source}: a prompt holds token {largest}, and both models know {size:,} tokens alike: leave out what only the teacher's "
            "tokenizer knows (as the turns of a chat)"
        )
    prompts = tuple(np.array(one, dtype=np.int64) for one in texts)
    ends = tuple(one for one in ends_of(teacher, tokenizer) if one < size)
    return Prompted(prompts, tuple(domains), ends, wanted.new_tokens, size)


def _has_prompts(source: str) -> bool:
    """Whether it is a file whose rows say what is asked; other rows and files are texts, of which beginnings are taken."""
    if not source.endswith(_ROWS_OF_PROMPTS):
        return False
    first = next(iter(read_records(source)), None)
    if first is None:
        raise DataError(f"{source} holds no rows: give some with `prompt`, `messages` or `text`")
    return bool({"prompt", "messages"} & first[1].keys())


def _in_engine(
    prompted: Prompted, trials: Sequence[Trial], costs: Costs, wanted: Wanted, console: Console
) -> list[dict[str, object]]:
    """The same prompts in llama.cpp, at the length that is predicted to be best."""
    found: list[dict[str, object]] = []
    if wanted.teacher_gguf is None or wanted.student_gguf is None:
        return found
    context = max(map(len, prompted.prompts)) + prompted.new_tokens + 8
    for trial in trials:
        best = trial.best(costs)
        length = best.length if best is not None else max(trial.measured, key=lambda one: one.speedup).length
        with console.status(f"llama.cpp, {words(trial.temperature)} …"):
            how = {"temperature": trial.temperature, "new_tokens": prompted.new_tokens, "context": context}
            alone, texts = engine_rounds(wanted.teacher_gguf, None, prompted.prompts, length=length, **how)
            drafted, others = engine_rounds(
                wanted.teacher_gguf, wanted.student_gguf, prompted.prompts, length=length, **how
            )
        same = sum(one == other for one, other in zip(texts, others, strict=True))
        times = drafted.tokens_per_second / alone.tokens_per_second
        console.print(
            f"llama.cpp, {words(trial.temperature)}, {length} a round: accepted {drafted.draft_acceptance_rate:.1%} of "
            f"{drafted.drafted:,}; {alone.tokens_per_second:.0f} tokens/s alone, {drafted.tokens_per_second:.0f} drafted "
            f"([bold]{times:.2f} x[/bold])"
            + ("" if trial.temperature else f"; {same} of {len(texts)} texts the same as alone")
        )
        found.append(_engine_facts(trial.temperature, length, alone, drafted, same))
    return found


def _engine_facts(
    temperature: float, length: int, alone: EngineRounds, drafted: EngineRounds, same: int
) -> dict[str, object]:
    return {
        "temperature": temperature,
        "length": length,
        "alone": asdict(alone),
        "drafted": asdict(drafted),
        "texts_the_same": None if temperature else same,
    }


def _print(trial: Trial, costs: Costs, console: Console) -> None:
    table = Table(title=f"{words(trial.temperature)}", title_justify="left", box=None, pad_edge=False)
    for name in ("drafts a round", "tokens a round", "", "accepted", "", "by position", "speed-up", ""):
        table.add_column(name, justify="right")
    table.add_row(
        "", "predicted", "measured", "predicted", "measured", "measured", "predicted", "measured", style="dim"
    )
    measured = {one.length: one for one in trial.measured}
    best = trial.best(costs)
    for one in trial.expected:
        real = measured.get(one.length)
        times = speedup(one, costs)
        table.add_row(
            f"{one.length}{' *' if one is best else ''}",
            f"{one.mean_acceptance_length:.2f}",
            f"{real.rounds.mean_acceptance_length:.2f}" if real else "",
            f"{one.draft_acceptance_rate:.1%}",
            f"{real.rounds.draft_acceptance_rate:.1%}" if real else "",
            " ".join(f"{share:.2f}" for share in real.rounds.by_position[:4]) if real else "",
            f"{times:.2f} x",
            f"[bold]{real.speedup:.2f} x[/bold]" if real else "",
        )
    console.print(table)
    rate = trial.rate
    console.print(
        f"a token is accepted with probability [bold]{rate.value:.3f}[/bold] ({_bounds(rate)}; {rate.tokens:,} tokens); "
        f"a student's token costs {costs.ratio:.2f} of a teacher's"
    )
    for name, one in trial.domains.items():
        console.print(f"  {escape(name or 'no domain')}: {one.value:.3f} ({_bounds(one)})")
    if best is None:
        console.print(
            "[yellow]no draft length should save time: the student is too slow beside its teacher, or too often wrong[/yellow]"
        )
    if trial.temperature == 0:
        least = min(trial.measured, key=lambda one: one.same or 0)
        console.print(
            f"[dim]texts the same as the teacher's alone: at least {least.same} of {least.texts} at each length (others differ where two "
            "tokens are all but equally likely)[/dim]"
        )


def _bounds(rate: Rate) -> str:
    return "one text" if math.isnan(rate.low) else f"{rate.low:.3f} to {rate.high:.3f}"


def _plain(trial: Trial) -> dict[str, object]:
    found = asdict(trial)
    for entry, one in zip(found["measured"], trial.measured, strict=True):
        entry.pop("rounds")
        entry |= {
            "num_spec_steps": len(one.rounds.each),
            "num_draft_tokens": one.rounds.drafted,
            "num_accepted_draft_tokens": one.rounds.accepted,
            "mean_acceptance_length": one.rounds.mean_acceptance_length,
            "draft_acceptance_rate": one.rounds.draft_acceptance_rate,
            "by_position": one.rounds.by_position,
            "speedup": one.speedup,
        }
    return found
