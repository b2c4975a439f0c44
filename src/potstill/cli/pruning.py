"""Pruning with a person watching: what is cut, what is left, and what it costs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel

from potstill.data import TokenCorpus, read_documents, tokenize
from potstill.errors import DataError, RecipeError
from potstill.evaluation import measure, score
from potstill.models import check_context, load_model, load_tokenizer, on_this_device, save_model
from potstill.runs import held_out_sample
from potstill.students import (
    Axis,
    AxisName,
    Importance,
    Shape,
    cuttable_axes,
    evenly_spaced,
    least_influential,
    measure_importance,
    prune,
    shape_of_share,
    sizes_of,
    without_block,
)

_HELD_OUT_TOKENS = 20_000


@dataclass(frozen=True)
class Wanted:
    """The shape as a person says it."""

    to: str | None
    layers: str | None
    contiguous: bool
    ffn: int | None
    heads: int | None
    hidden: int | None


def prune_model(
    teacher: str,
    out: Path,
    wanted: Wanted,
    data: str,
    tokens: int,
    length: int,
    scores: Path | None,
    console: Console,
) -> None:
    """Load, look, cut, measure, save."""
    share = _share(wanted.to)
    if not any((wanted.to, wanted.layers, wanted.ffn, wanted.heads, wanted.hidden)):
        raise RecipeError("nothing is to be cut: say --to 60%, or --layers, --ffn, --heads, --hidden")
    console.print(f"[dim]loading {escape(teacher)} …[/dim]")
    model, tokenizer = on_this_device(load_model(teacher)), load_tokenizer(teacher)
    check_context(model, length)
    corpus = tokenize(read_documents(data, tokenizer=tokenizer), tokenizer)
    looked_at, held_out = (corpus.part(split) for split in ("train", "held_out"))
    if min(len(looked_at), len(held_out)) == 0:
        raise DataError(
            f"{data} has {len(corpus)} documents, too few to look at some and hold out others: give more text"
        )
    axes = dict(cuttable_axes(model))
    if scores is None:
        console.print("[dim]measuring what matters …[/dim]")
        importance = measure_importance(model, held_out_sample(looked_at, tokens, length), length=length)
    else:
        importance = Importance.load(scores)
    shape = Shape(_layers(wanted, model, importance), wanted.ffn, wanted.heads, wanted.hidden)
    if share is not None:
        shape = shape_of_share(model, axes, share, start=shape)
    student, lineage = prune(model, shape, importance)
    save_model(student, tokenizer, out)
    importance.save(out / "importance.safetensors")
    (out / "lineage.json").write_text(json.dumps(asdict(lineage)) + "\n", "utf-8")
    _print(model, student, axes, lineage.layers, held_out_sample(held_out, _HELD_OUT_TOKENS, length), length, console)
    console.print(f'\nmodel    [bold]{escape(str(out))}[/bold]  (student.kind = "model", student.model = {str(out)!r})')


def _share(to: str | None) -> float | None:
    if to is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", to)
    share = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 < share < 1:
        raise RecipeError(f"--to is the share of parameters to keep, as in 60% or 0.6, found {to!r}")
    return share


def _layers(wanted: Wanted, model: PreTrainedModel, importance: Importance) -> tuple[int, ...] | None:
    if wanted.layers is None:
        return None
    try:
        numbers = tuple(int(one) for one in wanted.layers.split(","))
    except ValueError as error:
        raise RecipeError(f"--layers is a number (20) or a list (0,1,5), found {wanted.layers!r}") from error
    if "," in wanted.layers:
        return numbers
    there = model.config.num_hidden_layers
    evenly_spaced(there, numbers[0])  # refuses what can't be
    return (without_block if wanted.contiguous else least_influential)(importance, there - numbers[0])


def _print(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    axes: Mapping[AxisName, Axis],
    layers: tuple[int, ...],
    held_out: TokenCorpus,
    length: int,
    console: Console,
) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name, justify in (("", "left"), ("teacher", "right"), ("student", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    names = {"hidden": "hidden_size", "heads": "num_attention_heads"}
    for name, axis in axes.items():
        setting = names.get(name, axis.setting)
        table.add_row(name, str(axis.size), str(getattr(student.config, setting) or axis.size))
    table.add_row("layers", str(teacher.config.num_hidden_layers), str(len(layers)))
    one, other = sizes_of(teacher), sizes_of(student)
    for label, before, after in (
        ("parameters", one.model.total, other.model.total),
        ("  not embeddings", one.model.non_embedding, other.model.non_embedding),
    ):
        table.add_row(label, f"{before / 1e6:,.2f} M", f"{after / 1e6:,.2f} M ({after / before:.0%})")
    table.add_row("cache, bytes a token", f"{one.cache_bytes:,}", f"{other.cache_bytes:,}")
    console.print("[dim]measuring both on held-out text …[/dim]")
    perplexities = [score(measure(model, held_out, length=length), "perplexity").value for model in (teacher, student)]
    table.add_row("perplexity", *(f"{value:,.2f}" for value in perplexities))
    console.print()
    console.print(table)
    gone = [layer for layer in range(teacher.config.num_hidden_layers) if layer not in layers]
    if gone:
        console.print(f"layers left out: {', '.join(map(str, gone))}")
    missing = [name for name in ("ffn", "heads", "hidden") if name not in axes]
    if missing:
        refused = ", ".join(missing)
        console.print(f"[dim]{teacher.config.model_type}'s configuration can't say fewer of: {refused}[/dim]")
