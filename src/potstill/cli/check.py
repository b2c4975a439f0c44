"""`potstill check RECIPE`: everything that can be known before anything is trained."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.cli.options import RecipeArgument, SetOption

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel

    from potstill.recipe import Recipe

_ENOUGH_DOCUMENTS = 200
# Read more often than that (compress's default), a text begins to be learned by heart.
_OFTEN = 4


def check(recipe: RecipeArgument, sets: SetOption = None) -> None:
    """Decode a recipe, build its models without weights, read a little of its text; print sizes, memory and time. Trains nothing."""
    from rich.syntax import Syntax

    from potstill.cli.console import new_console
    from potstill.models import check_context, classes_of, load_shape, size_of, task_of
    from potstill.recipe import build_batches, build_shape, load_recipe, read_corpus, recipe_toml, shared_tokenizer
    from potstill.recipe.marking import size_of_all
    from potstill.recipe.teaching import numbers_of_teachers
    from potstill.runs import check_trackers

    decoded = load_recipe(recipe, sets=sets or [])
    console = new_console()
    teacher = load_shape(decoded.teacher.model)
    student = build_shape(decoded.student, teacher)
    check_trackers(decoded.training.trackers)
    labels = _labels(decoded)
    for model in (teacher, student):
        check_context(model, decoded.training.length)
    size, tokenizer = shared_tokenizer(decoded, teacher, student)
    size_of_all(decoded, student, tokenizer, size)
    corpus = read_corpus(
        decoded.data,
        tokenizer,
        classes=classes_of(teacher),
        teachers=numbers_of_teachers(decoded),
        most=_ENOUGH_DOCUMENTS,
    )
    training = decoded.training
    report = build_batches(training, task_of(teacher), tokenizer, corpus).report
    # A mistake is the one thing to read, where there is one: nothing is printed before everything is decoded, built and read.
    console.print(Syntax(recipe_toml(decoded), "toml", background_color="default"))
    for name, model in (("teacher", teacher), ("student", student)):
        size = size_of(model)
        console.print(
            f"{name}  {type(model).__name__}, {model.config.num_hidden_layers} layers of width {model.config.hidden_size}: "
            f"{size.total / 1e6:,.2f} M parameters, {size.non_embedding / 1e6:,.2f} M of them not embeddings"
        )
    if labels:
        console.print(labels)
    more = " (more were not read)" if len(corpus) == _ENOUGH_DOCUMENTS else ""
    console.print(
        f"text     {report.documents:,} documents{more}: {report.tokens:,} tokens, {report.counted_tokens:,} learned from, "
        f"{report.padding_share:.1%} padding, {report.samples_cut:,} samples cut to {training.length} tokens"
    )
    tokens = training.tokens
    if training.steps is not None:
        tokens = training.steps * training.rows * training.length
    elif training.epochs is not None and not more:
        tokens = max(1, round(training.epochs * report.rows * training.length))
    if tokens is not None and not more and training.epochs is None and training.on_policy is None:
        learned = corpus.part("train", held_out=decoded.data.held_out, search=decoded.data.search)
        if len(learned):
            once = build_batches(training, task_of(teacher), tokenizer, learned).steps_per_epoch
            console.print(_epochs(tokens / (once * training.rows * training.length)))
    _print_estimate(decoded, teacher, student, tokens, console)


def _print_estimate(
    decoded: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, tokens: int | None, console: Console
) -> None:
    """Memory and time, as far as they can be known."""
    import torch

    from potstill.models import faster_dtype
    from potstill.runs import estimate

    training, gate = decoded.training, decoded.teacher.gate
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = faster_dtype(device) if training.dtype == "auto" else getattr(torch, training.dtype)
    micro_rows = training.micro_rows or training.rows
    found = estimate(
        teacher, student, tokens=tokens or 0, micro_rows=micro_rows, length=training.length, dtype=dtype, device=device
    )
    console.print(
        "memory   about "
        + ", ".join(f"{_bytes(value)} {name}" for name, value in found.memory.items())
        + f": {_bytes(sum(found.memory.values()))}"
    )
    if tokens is None:
        console.print(
            f"time     can't be told by the first {_ENOUGH_DOCUMENTS} documents where training.epochs says how long: "
            "`potstill plan` reads all"
        )
    else:
        looked_at = decoded.student.tokens if decoded.student.kind == "prune" else 0
        looking = looked_at * (found.seconds_soft - found.seconds_hard) / tokens
        console.print(
            f"time     about {_time(found.seconds_soft)} for {tokens:,} tokens with the teacher here"
            + (f", and {_time(found.seconds_hard)} for the control" if decoded.evaluation.control else "")
            + (
                f", and {_time(1.5 * gate.share * found.seconds_hard)} for the gate before it"
                if gate is not None
                else ""
            )
            + (f", and {_time(looking)} to see what matters in the teacher (student.tokens)" if looked_at else "")
            + ("; writing comes on top" if training.on_policy is not None else "")
            + ("; other teachers come on top" if decoded.teacher.mixture is not None else "")
            + ("; of one stage that long" if decoded.stages is not None else "")
        )
    if decoded.stages is not None:
        console.print(f"stages   {_stages(decoded)}")


def _stages(recipe: Recipe) -> str:
    """How many runs a recipe of stages is, and how long each; equal ones that follow each other are told together."""
    from potstill.recipe.schema import LENGTHS_OF_TRAINING
    from potstill.recipe.staging import assistants_of, plan_stages, recipe_of_stage

    stages = plan_stages(recipe, assistants_of(recipe))
    lengths = []
    for stage in stages:
        training = recipe_of_stage(recipe, stage, Path("runs") / recipe.name).training
        lengths += [(value, unit) for unit in LENGTHS_OF_TRAINING if (value := getattr(training, unit)) is not None]
    told = []
    for (value, unit), group in groupby(zip(lengths, stages, strict=True), key=lambda one: one[0]):
        names = [stage.name for _, stage in group]
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, each"
        told.append(f"{name} {round(value, 2):,} {unit}")
    units = {unit for _, unit in lengths}
    whole = f": {round(sum(value for value, _ in lengths), 2):,} {units.pop()} in all" if len(units) == 1 else ""
    return f"{len(stages)}, one after another: {'; '.join(told)}{whole}"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _epochs(epochs: float) -> str:
    """How often the text is read, and what to do where that is too often."""
    number = f"{epochs:,.2f}" if epochs < 10 else f"{epochs:,.0f}"
    if epochs <= _OFTEN:
        return f"epochs   about {number}"
    return (
        f"epochs   about {number}: the text is read again and again, and may be learned by heart; give more of it, or read it less "
        f"often (training.epochs = {_OFTEN} in place of tokens or steps)"
    )


def _labels(recipe: Recipe) -> str:
    """What is stored, where the recipe learns from that. Raises where it can't serve the loss."""
    from rich.markup import escape

    from potstill.recipe import build_measure
    from potstill.recipe.labelling import open_store
    from potstill.teachers import check_serves

    if recipe.teacher.kind != "stored":
        return ""
    store = open_store(recipe, Path("runs") / recipe.name)
    check_serves(store, build_measure(recipe.loss))
    return (
        f"labels   {store.num_documents:,} documents, {store.num_tokens:,} predictions in {escape(str(store.folder))}"
    )
