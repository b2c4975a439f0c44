"""What `export` does: find the student and its text, write, measure, judge, and leave a page and a manifest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import Split, TokenCorpus, read_documents, tokenize
from potstill.errors import DataError, ModelError, RecipeError, RunDirectoryError
from potstill.evaluation import score
from potstill.evaluation.measuring import written_whole
from potstill.export import Codes, calibrated, kind_named, rounded
from potstill.export.folder import PARTS, modelfile, page, run_lines
from potstill.export.gguf_file import block_of, context_in
from potstill.models import check_context, load_model, load_tokenizer, task_of
from potstill.recipe import load_recipe, read_corpus
from potstill.runs import RunFolder, held_out_sample, manifest
from potstill.runs.exporting import (
    MOST_KL,
    Format,
    Judged,
    Rescored,
    RunBar,
    Wanted,
    judge_export,
    measure_alone,
    rescore,
    write_export,
)
from potstill.runs.folder import FOUR_BITS

_FORMATS: dict[str, Format] = {"int4": "int4", "int8": "int8", "gguf": "gguf", "huggingface": "huggingface"}
_FACTS = "export.json"
# What makes rows that blocks divide.
_SMALLER = " (a student cut to sizes that 32 divides makes a smaller file: student.hidden, student.ffn)"
# Without the file the student would be exported on another grid.
_LEARN_AGAIN = "start its run again (potstill distill), which writes it anew"
_UNMEASURED = json.dumps({"good": False, "why": "it wasn't measured to the end"}) + "\n"
_METRICS = {"kl_to_teacher": "KL, nats", "agreement": "same first choice", "perplexity": "perplexity"}


@dataclass(frozen=True)
class Calibration:
    """The text that auto-round learns to round on (`run`: what the run learned from), and its steps a layer."""

    text: str
    steps: int


def wanted_of(to: str, kind: str, group: int | None, most_kl: float, *, is_calibrated: bool = False) -> Wanted:
    """What the options ask for. RecipeError for a format that there isn't, or an option that another format has."""
    found = _FORMATS.get(to)
    if found is None:
        raise RecipeError(f"--to is one of {', '.join(_FORMATS)}, found {to!r}")
    if group is not None and found not in ("int4", "int8"):
        raise RecipeError(f"--group is of int4 and int8: {to} has none to choose")
    if is_calibrated and found not in ("int4", "int8"):
        raise RecipeError(f"--calibrate is of int4 and int8: {to} is written as it is, or rounded to nearest")
    return Wanted(found, kind_named(kind), group, most_kl)


def export_and_measure(
    source: str,
    wanted: Wanted,
    console: Console,
    *,
    data: str | None,
    tokens: int,
    length: int,
    calibration: Calibration | None = None,
    threads: int | None,
    out: Path | None,
) -> bool:
    """Whether what was written is good. Raises a PotstillError for what can't be written, read or measured."""
    run = Path(source).expanduser() if (Path(source).expanduser() / "student" / "config.json").exists() else None
    name = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
    folder = out or (run / f"export-{wanted.name}" if run else Path(f"{name.removesuffix('.gguf')}-{wanted.name}"))
    place = str(run / "student") if run else source
    _check_is_free(folder, place)
    wanted, bars = _in_the_runs_groups(wanted, place), _bars(run)
    tokenizer, latent = load_tokenizer(place), load_model(place)
    _check_can_be_exported(latent, place)
    check_context(latent, length)
    # What learned through four bits is good on their grid alone; packing finds that grid from the weights behind it.
    learned = _learned_through(place)
    model = latent if learned is None else rounded(latent, learned)
    if learned is not None and calibration is not None:
        raise RecipeError(
            "this student learned through rounding to nearest, and is good on that grid alone: leave --calibrate out"
        )
    corpus = held_out_sample(_text(run, data, tokenizer, calibration), tokens, length)
    codes = None if calibration is None else _calibrated(latent, tokenizer, run, calibration, wanted, length, console)
    console.print(f"[dim]writing {escape(str(folder))} …[/dim]")
    if (folder / _FACTS).exists():
        _mark_unmeasured(folder)
    written = latent if wanted.format == "int4" else model
    stem, beside = name.removesuffix(".gguf"), {_FACTS: _UNMEASURED}
    weights = write_export(written, tokenizer, folder, wanted, name=stem, codes=codes, beside=beside)
    console.print(f"[dim]measuring it on {len(corpus)} documents …[/dim]")
    alone = measure_alone(model, corpus, length=length)
    found = rescore(model, tokenizer, weights, wanted, corpus, length=length, alone=alone, threads=threads)
    judged = judge_export(wanted, found, bars)
    facts = facts_of(wanted, found, judged, source=source, name=name)
    facts["calibration"] = None if calibration is None else {"by": "auto-round", **asdict(calibration)}
    lines = _leave_page(folder, weights, model, wanted, facts)
    _print(wanted, found, judged, console)
    if run is not None and _recovered(run):
        console.print(
            "note         in four bits this student missed the run's bar and learned on: that one is student-int4/, and this export is of "
            "student/",
            soft_wrap=True,
        )
    for engine, line in lines.items():
        console.print(f"{engine:<13}{escape(line)}", soft_wrap=True)
    if wanted.format == "gguf":
        console.print(f"serve        potstill serve {escape(shlex.quote(str(folder)))}", soft_wrap=True)
    console.print(f"page         [bold]{escape(str(folder / 'README.md'))}[/bold]")
    return judged.good


def facts_of(wanted: Wanted, found: Rescored, judged: Judged, *, source: str, name: str) -> dict[str, object]:
    """export.json: plain dictionaries."""
    scores = {
        "KL to the student, nats": score(found.export, "kl_to_teacher").value,
        "same first choice as the student": score(found.export, "agreement").value,
        "perplexity": score(found.export, "perplexity").value,
        "perplexity of the student": score(found.student, "perplexity").value,
    }
    if found.engine_kl is not None:
        scores["KL by the engine's own probabilities, at a few places"] = max(0.0, found.engine_kl)
    return {
        "name": name,
        "source": source,
        "format": f"GGUF {wanted.kind}" if wanted.format == "gguf" else wanted.format,
        "engine": found.engine,
        "good": judged.good,
        "why": judged.why,
        "bars": [{"bar": text, "value": value} for text, value in judged.bars],
        "most_kl": MOST_KL.get(wanted.name, wanted.most_kl),
        "predictions": int(found.export.tokens.sum()),
        "documents": len(found.export),
        "scores": scores,
        "bytes": {part: found.bytes[part] for part in PARTS if part in found.bytes},
        "types": dict(found.types),
        "smaller_blocks": dict(found.smaller_blocks),
        "padding": found.padding,
        "speeds": {one: asdict(speed) for one, speed in found.speeds.items()},
    }


def _learned_through(place: str) -> int | None:
    """Inputs a scale, where this is the student of a run that learned through four bits."""
    said = Path(place).expanduser().parent / FOUR_BITS
    if Path(place).name != "student" or not said.exists():
        return None
    return RunFolder(said.parent).read_as(said.name, lambda found: int(found["group"]), mend=_LEARN_AGAIN)


def _in_the_runs_groups(wanted: Wanted, place: str) -> Wanted:
    """In the groups that the student learned through, where it did. RecipeError where others are asked for."""
    learned = _learned_through(place)
    if learned is None or wanted.format != "int4":
        return wanted
    if wanted.group not in (None, learned):
        raise RecipeError(
            f"this student learned through groups of {learned}, found --group {wanted.group}: leave it out"
        )
    return replace(wanted, group=learned)


def _check_can_be_exported(model: PreTrainedModel, place: str) -> None:
    """ModelError for what writes no text, and for weights that are packed already."""
    if task_of(model) != "causal":
        raise ModelError(f"{place} doesn't write text: only language models that do are exported")
    if not place.endswith(".gguf") and getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(f"the weights of {place} are packed already: export the student that they were packed from")


def _mark_unmeasured(folder: Path) -> None:
    """Nothing says of the weights in the folder that they are good before they were measured."""
    for stale in ("README.md", "Modelfile"):
        (folder / stale).unlink(missing_ok=True)
    _write(folder / _FACTS, _UNMEASURED)


def _check_is_free(folder: Path, place: str) -> None:
    """RunDirectoryError where an export would land among other things, or on what is exported."""
    if folder.is_file():
        raise RunDirectoryError(f"{folder} is a file: choose another folder (--out)")
    source = Path(place).expanduser()
    if source.exists() and folder.resolve() in (source.resolve(), source.resolve().parent):
        raise RunDirectoryError(f"{folder} holds what is to be exported: choose another folder (--out)")
    if not folder.is_dir() or (folder / _FACTS).exists():
        return
    names = sorted((one.name for one in folder.iterdir()), key=lambda name: (name == "checks.json", name))
    if (stranger := next(iter(names), None)) is not None:
        raise RunDirectoryError(
            f"{folder} holds something that is no export ({stranger}): choose another folder (--out)"
        )


def _calibrated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    run: Path | None,
    calibration: Calibration,
    wanted: Wanted,
    length: int,
    console: Console,
) -> Codes:
    """What auto-round finds on the text to learn from."""
    if calibration.text == "run":
        if run is None or not (run / "recipe.toml").exists():
            raise DataError("there is no run that learned from text here: say on what text to round (--calibrate TEXT)")
        text = _text_of_run(run, tokenizer, "train")
    else:
        text = tokenize(read_documents(calibration.text, tokenizer=tokenizer), tokenizer).part("train")
    console.print(f"[dim]rounding by auto-round, {calibration.steps} steps a layer …[/dim]")
    bits = int(wanted.format[-1])
    return calibrated(model, tokenizer, text, wanted.group, bits=bits, length=length, steps=calibration.steps)


def _text(
    run: Path | None, data: str | None, tokenizer: PreTrainedTokenizerBase, calibration: Calibration | None
) -> TokenCorpus:
    """What is measured on: the text asked for, or what the run held out. Of text that is rounded by too, the held-out part."""
    if data is not None:
        found = tokenize(read_documents(data, tokenizer=tokenizer), tokenizer)
        if calibration is not None and calibration.text == data:
            found = found.part("held_out")
    elif run is not None and (run / "recipe.toml").exists():
        found = _text_of_run(run, tokenizer, "held_out")
    else:
        raise DataError(
            "say on what text the export is to be measured (--data): file, folder, dataset or standard-library"
        )
    if len(found) == 0:
        raise DataError("there is no text to measure the export on: give some with --data")
    return found


def _text_of_run(run: Path, tokenizer: PreTrainedTokenizerBase, split: Split) -> TokenCorpus:
    table = load_recipe(run / "recipe.toml").data
    kept = run / "tokens"
    corpus = TokenCorpus.load(kept) if (kept / "corpus.json").exists() else read_corpus(table, tokenizer)
    return corpus.part(split, held_out=table.held_out, search=table.search)


def _bars(run: Path | None) -> tuple[RunBar, ...]:
    """Those of the run, where `potstill compress` set some."""
    if run is None or not (run / "scores.json").exists():
        return ()
    names = ("metric", "least", "absolute", "value")
    return RunFolder(run).read_as(
        "scores.json",
        lambda found: tuple(
            RunBar(one["bar"], *(one[name] for name in names))
            for one in (found["verdicts"] if found.get("bars") else ())
        ),
    )


def _recovered(run: Path) -> bool:
    """Whether `potstill compress` left a student of four bits that learned on after it was rounded."""
    if not (run / "student-int4" / "config.json").exists() or not (run / "scores.json").exists():
        return False
    found = RunFolder(run).read_json("scores.json").get("int4")
    return isinstance(found, Mapping) and bool(found.get("learned_through_rounding"))


def _leave_page(
    folder: Path, weights: Path, model: PreTrainedModel, wanted: Wanted, facts: Mapping[str, object]
) -> dict[str, str]:
    of_model = getattr(model.config, "max_position_embeddings", 2048)
    context = min(2048, context_in(weights) if wanted.format == "gguf" else of_model)
    here = Path(weights.name) if wanted.format == "gguf" else Path()
    card = folder / "README.md"
    text = page(facts, run_lines(wanted.format, Path(), here, context=context))
    if wanted.format == "gguf":
        _write(folder / "Modelfile", modelfile(weights, context=context))
    _write(card, text)
    _write(folder / _FACTS, json.dumps({**facts, "manifest": manifest({})}, indent=2, default=str) + "\n")
    return run_lines(wanted.format, folder, weights, context=context)


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, "utf-8")


def _print(wanted: Wanted, found: Rescored, judged: Judged, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("", "MB", *_METRICS.values(), "reads, tokens/s", "writes, tokens/s"):
        table.add_column(title, justify="right" if title else "left")
    for who, measured in (("student", found.student), ("export", found.export)):
        speed = found.speeds[who]
        size = "" if who == "student" else f"{sum(found.bytes.values()) / 1e6:,.1f}"
        table.add_row(
            "student, torch" if who == "student" else f"{wanted.name}, {found.engine}",
            size,
            f"{score(measured, 'kl_to_teacher').value:.5f}",
            f"{score(measured, 'agreement').value:.1%}",
            f"{score(measured, 'perplexity').value:.3f}",
            f"{speed.prefill_tokens_per_second:,.0f}",
            "–" if speed.decode_tokens_per_second is None else f"{speed.decode_tokens_per_second:,.0f}",
        )
    console.print()
    console.print(table)
    parts = ", ".join(f"{part} {found.bytes[part] / 1e6:,.2f} MB" for part in PARTS if part in found.bytes)
    types = ", ".join(f"{number} {name}" for name, number in found.types.items())
    console.print(f"\nweights      {parts}" + (f"; tensors: {types}" if types else ""))
    if found.padding:
        console.print(f"padding      {found.padding}: zeros that change nothing, so that blocks of 32 divide the rows")
    if found.smaller_blocks:
        odd = ", ".join(f"{name}: {kind}" for name, kind in found.smaller_blocks.items())
        kind, hint = ("K", "") if "_k" in wanted.kind else (wanted.kind, _SMALLER)
        console.print(
            f"{'not ' + kind:<12} blocks of {block_of(wanted.kind)} don't divide the rows of {odd}{hint}",
            soft_wrap=True,
        )
    if found.engine_kl is not None:
        console.print(f"engine       its own probabilities at a few places: KL {max(0.0, found.engine_kl):.5f} nats")
    for text, value in judged.bars:
        console.print(f"bar          {escape(text)}: {'not judged by this text' if value is None else f'{value:.4g}'}")
    verdict = (
        "[bold green]good[/]: near enough to the student"
        if judged.good
        else f"[bold yellow]not good[/]: {escape(judged.why)}"
    )
    console.print(f"verdict      {verdict}")
