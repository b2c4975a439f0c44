"""Pruning with a person watching: what is cut, what is left, and what it costs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from potstill.data import Document, Split, TokenCorpus, read_documents, split_of, tokenize
from potstill.errors import DataError, RecipeError
from potstill.evaluation import measure, score
from potstill.models import check_context, load_model, load_tokenizer, on_this_device, save_model
from potstill.reports import draw_importance
from potstill.runs import held_out_sample
from potstill.search import times_as_fast
from potstill.students import (
    Axis,
    AxisName,
    Importance,
    LayerChoice,
    Shape,
    choose_layers,
    cuttable_axes,
    largest_shape,
    measure_importance,
    prune,
    shape_of_share,
    shape_of_size,
    sizes_of,
    with_losses,
)

_HELD_OUT_TOKENS = 20_000
# Generous, so that there is rather too much text than too little.
_CHARACTERS_A_TOKEN, _CONTEXTS_A_DOCUMENT = 6, 2


@dataclass(frozen=True)
class Wanted:
    """The shape as a person says it."""

    to: str | None
    layers: str | None
    choose: LayerChoice
    ffn: int | None
    heads: int | None
    kv_heads: int | None
    hidden: int | None


@dataclass(frozen=True)
class Target:
    """How small, or how fast: a share of the parameters that are not embeddings, parameters, bytes of weights, times the speed."""

    kind: Literal["share", "parameters", "bytes", "speed"]
    amount: float


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
    disable_progress_bar()
    target = None if wanted.to is None else target_of(wanted.to)
    if not any((wanted.to, wanted.layers, wanted.ffn, wanted.heads, wanted.kv_heads, wanted.hidden)):
        raise RecipeError("nothing is to be cut: say --to 60%, or --layers, --ffn, --heads, --kv-heads, --hidden")
    console.print(f"[dim]loading {escape(teacher)} …[/dim]")
    model, tokenizer = on_this_device(load_model(teacher)), load_tokenizer(teacher)
    check_context(model, length)
    documents = enough_documents(
        read_documents(data, tokenizer=tokenizer), {"train": tokens, "held_out": _HELD_OUT_TOKENS}, length
    )
    corpus = tokenize(documents, tokenizer)
    looked_at, held_out = (corpus.part(split) for split in ("train", "held_out"))
    if min(len(looked_at), len(held_out)) == 0:
        raise DataError(
            f"{data} has {len(corpus)} documents, too few to look at some and hold out others: give more text"
        )
    looked_at = held_out_sample(looked_at, tokens, length)
    axes = dict(cuttable_axes(model))
    importance = _importance(model, looked_at, length, scores, wanted, console)
    shape = Shape(_layers(wanted, model, importance), wanted.ffn, wanted.heads, wanted.hidden, wanted.kv_heads)
    if target is not None:
        shape = _towards(target, model, axes, shape, console)
    student, lineage = prune(model, shape, importance)
    save_model(student, tokenizer, out)
    importance.save(out / "importance.safetensors")
    draw_importance(importance, out / "importance.png", title=f"What matters in {teacher}")
    (out / "lineage.json").write_text(json.dumps(asdict(lineage)) + "\n", "utf-8")
    _print(model, student, axes, lineage.layers, held_out_sample(held_out, _HELD_OUT_TOKENS, length), length, console)
    console.print(
        f'\nmodel    [bold]{escape(str(out))}[/bold]  (student.kind = "model", student.model = {json.dumps(str(out), ensure_ascii=False)})'
        f"\npicture  {escape(str(out / 'importance.png'))}"
    )


def enough_documents(documents: Iterable[Document], tokens: Mapping[Split, int], length: int) -> Iterator[Document]:
    """The first ones, until each split has about so many tokens, a few contexts from each document: a large corpus isn't read whole."""
    missing = {split: _CHARACTERS_A_TOKEN * count for split, count in tokens.items()}
    for document in documents:
        yield document
        split = split_of(document.key)
        if split in missing:
            missing[split] -= min(len(document.text), _CONTEXTS_A_DOCUMENT * _CHARACTERS_A_TOKEN * length)
        if max(missing.values()) <= 0:
            return


def target_of(to: str) -> Target:
    """What "60%", "0.6", "80M", "1.2B", "150MB", "1.5x" ask for. RecipeError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kmb]|[kmg]i?b|x)?\s*", to, re.IGNORECASE)
    if match is not None:
        amount, unit = float(match[1]), (match[2] or "").lower()
        if unit in ("", "%") and 0 < (share := amount / (100 if unit else 1)) < 1:
            return Target("share", share)
        if unit in ("k", "m", "b") and amount > 0:
            return Target("parameters", amount * {"k": 1e3, "m": 1e6, "b": 1e9}[unit])
        if unit.endswith("b") and len(unit) > 1 and amount > 0:
            step = 1024 if "i" in unit else 1000
            return Target("bytes", amount * step ** ("kmg".index(unit[0]) + 1))
        if unit == "x" and amount > 1:
            return Target("speed", amount)
    raise RecipeError(
        f"--to is a share of the parameters that are not embeddings (60%), a number of parameters (80M), the size of the weights (150MB), "
        f"or how much faster it writes (1.5x), found {to!r}"
    )


def _importance(
    model: PreTrainedModel, corpus: TokenCorpus, length: int, scores: Path | None, wanted: Wanted, console: Console
) -> Importance:
    by_loss = wanted.choose == "perplexity" and wanted.layers is not None
    importance = None if scores is None else Importance.load(scores)
    if importance is None:
        console.print("[dim]measuring what matters …[/dim]")
        importance = measure_importance(model, corpus, length=length)
    if by_loss and not importance.losses.size:
        console.print("[dim]measuring the loss without each layer …[/dim]")
        importance = with_losses(importance, model, corpus, length=length)
    return importance


def _towards(
    target: Target, model: PreTrainedModel, axes: dict[AxisName, Axis], start: Shape, console: Console
) -> Shape:
    match target.kind:
        case "share":
            return shape_of_share(model, axes, target.amount, start=start)
        case "parameters":
            return shape_of_size(model, axes, target.amount, start=start)
        case "bytes":
            return shape_of_size(model, axes, target.amount / model.dtype.itemsize, start=start)
        case "speed":
            console.print("[dim]timing shapes …[/dim]")
            return largest_shape(model, axes, lambda shape: times_as_fast(model, shape) >= target.amount, start=start)


def _layers(wanted: Wanted, model: PreTrainedModel, importance: Importance) -> tuple[int, ...] | None:
    if wanted.layers is None:
        return None
    try:
        numbers = tuple(int(one) for one in wanted.layers.split(","))
    except ValueError as error:
        raise RecipeError(f"--layers is a number (20) or a list (0,1,5), found {wanted.layers!r}") from error
    if "," in wanted.layers:
        return numbers
    return choose_layers(wanted.choose, model.config.num_hidden_layers, numbers[0], importance)


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
