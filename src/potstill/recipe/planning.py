"""A recipe -> what its run will be made of. Neither weights nor accelerators are needed to plan it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import StoreError
from potstill.recipe.build import build_shape, num_steps
from potstill.recipe.job import check_stored, shared_tokenizer
from potstill.recipe.labelling import build_codec, open_store
from potstill.recipe.schema import LoraTable, Recipe
from potstill.recipe.searched import SearchedStudent
from potstill.recipe.searching import CHOOSING_TOKENS, check_search, texts_of_search
from potstill.recipe.teaching import numbers_of_teachers
from potstill.recipe.text import Say, learned_and_held_out, read_corpus, sources_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from potstill.data import TokenCorpus
    from potstill.planning import Workload, Writing


@dataclass(frozen=True)
class Amounts:
    """How much text there is: steps of a training, predictions to learn from, tokens held out and chosen by, tokens in all."""

    steps: int
    learned: int
    held_out: int
    chosen_by: int
    text: int
    writing: Writing | None = None


def build_workload(recipe: Recipe, *, tokens: int | None = None, count: int = 1, say: Say) -> Workload:
    """What the run will be made of, from configurations and the text itself; with `tokens`, of a text of that size, which isn't read.
    `count` processes share it.

    Raises whatever `potstill distill` (or `compress`) would say of shapes, tokenizers and text.
    """
    from potstill.models import load_shape

    if recipe.student.kind == "search":
        check_search(recipe, Path("runs") / recipe.name)
    teacher = load_shape(recipe.teacher.model)
    student = half_of(teacher) if recipe.student.kind == "search" else build_shape(recipe.student, teacher)
    _check(recipe, teacher, student, count)
    if tokens is not None:
        amounts = on_paper(recipe, tokens)
    else:
        amounts = _read(recipe, teacher, student, say)
    return workload_of(recipe, teacher, student, amounts)


def _check(recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, count: int) -> None:
    """What the run refuses that can be seen of models without weights."""
    from potstill.models import check_context, check_tensor_parallel, group_size, task_of

    if recipe.teacher.tensor_parallel:
        check_tensor_parallel(teacher, group_size(recipe.teacher.tensor_parallel, count))
    for model in (teacher, student):
        check_context(model, recipe.training.length)
    if recipe.teacher.kind == "stored":
        check_stored(recipe, task_of(teacher))


def workload_of(
    recipe: Recipe,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    amounts: Amounts,
    *,
    dtype: torch.dtype | None = None,
) -> Workload:
    """The same, the text being counted already. The models may be without weights; `dtype` is that of the forward pass, where it was
    decided already (None: 16 bits, unless the recipe says otherwise)."""
    import torch

    from potstill.planning import LabelFormat, Workload, shape_of

    training, wanted, labels = recipe.training, recipe.student, recipe.labels
    is_search = isinstance(wanted, SearchedStudent)
    is_stored = recipe.teacher.kind == "stored" or is_search
    narrow = training.dtype != "float32" if dtype is None else dtype.itemsize < 4
    counted = shape_of(student)
    lora = None
    if training.lora is not None:
        lora = min(1.0, _adapters(training.lora, student) / counted.parameters)
    stored = _already_stored(recipe) if is_stored and not is_search else 0
    teacher_bytes = teacher.dtype.itemsize if teacher.device != torch.device("meta") else 2 if narrow else 4
    return Workload(
        kind="compress" if is_search else "distill",
        teacher=shape_of(teacher),
        student=counted,
        steps=amounts.steps,
        rows=training.rows,
        length=training.length,
        micro_rows=training.micro_rows,
        is_stored=is_stored,
        is_translated=recipe.teacher.kind == "translated",
        tensor_parallel=recipe.teacher.tensor_parallel,
        labelled=max(0, amounts.learned - stored) if is_stored else 0,
        labels=LabelFormat(labels.tier, labels.tau, labels.k, labels.bits),
        label_rows=labels.rows,
        held_out=amounts.held_out,
        chosen_by=amounts.chosen_by,
        looked_at=wanted.tokens if is_search or (wanted.kind == "prune" and wanted.importance is None) else 0,
        cuts=len(wanted.cuts) if is_search else 1,
        looks=wanted.looks if is_search else 0,
        controls=recipe.evaluation.control + recipe.evaluation.smoothing,
        same_time=recipe.evaluation.control and recipe.evaluation.control_same_time,
        untouched=recipe.evaluation.untouched,
        text=amounts.text,
        teacher_bytes=teacher_bytes,
        bytes=2 if narrow else 4,
        checkpoint_every=training.checkpoint_every,
        gradient_checkpointing=training.gradient_checkpointing,
        lora=lora,
        writing=amounts.writing,
    )


def _adapters(lora: LoraTable, student: PreTrainedModel) -> int:
    """Weights of low-rank adapters beside a student's linear layers; counted, where it has them already."""
    from torch import nn

    if any(not weight.requires_grad for weight in student.parameters()):
        return sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    head = student.get_output_embeddings()
    layers = [
        layer
        for name, layer in student.base_model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and (lora.targets is None or name.endswith(lora.targets))
    ]
    return sum(lora.rank * (layer.in_features + layer.out_features) for layer in layers)


def left_out(recipe: Recipe) -> list[str]:
    """What of the recipe is not in its plan."""
    teacher = recipe.teacher
    given = {
        "other teachers": teacher.mixture is not None,
        "the teacher's correction": teacher.correction is not None,
        "the student's average as its teacher": teacher.average is not None,
        "the gate": teacher.gate is not None,
        "all stages but one": recipe.stages is not None,
        "what is compared beside the labels": bool(recipe.loss.features),
        "rounding to four bits": recipe.training.int4 is not None,
    }
    return [name for name, is_given in given.items() if is_given]


def half_of(teacher: PreTrainedModel) -> PreTrainedModel:
    """A student of half the teacher's size, without weights: what a search is planned by."""
    from potstill.errors import ModelError
    from potstill.students import Shape, cuttable_axes, shape_of_share
    from potstill.students.shapes import shaped

    axes = dict(cuttable_axes(teacher))
    try:
        shape = shape_of_share(teacher, axes, 0.5)
    except ModelError:  # what can't be narrower is cut in depth
        shape = Shape(tuple(range(max(1, teacher.config.num_hidden_layers // 2))))
    return shaped(teacher, shape, axes)


def on_paper(recipe: Recipe, tokens: int) -> Amounts:
    """For a text of so many tokens that nobody has read: shares of it go where the recipe says."""
    data, training = recipe.data, recipe.training
    learned = max(1, round(tokens * (1 - data.held_out - data.search)))
    writing = writing_of(recipe)
    per_step = training.rows * training.length if writing is None else round(writing.read)
    steps = num_steps(training, tokens_per_step=per_step, steps_per_epoch=learned / per_step)
    if recipe.student.kind == "search":
        learned = min(learned, steps * per_step)  # what is not read needs no labels
    return Amounts(
        steps=steps,
        learned=learned,
        held_out=min(recipe.evaluation.tokens, round(tokens * data.held_out)),
        chosen_by=min(CHOOSING_TOKENS, round(tokens * data.search)) if recipe.student.kind == "search" else 0,
        text=tokens,
        writing=writing,
    )


def _read(recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, say: Say) -> Amounts:
    """Of the text itself, all of it."""
    from potstill.models import classes_of, load_tokenizer, task_of

    training = recipe.training
    if recipe.student.kind == "search":
        tokenizer = load_tokenizer(recipe.teacher.model)
        say(f"reading {', '.join(sources_of(recipe.data))}")
        corpus = read_corpus(recipe.data, tokenizer)
        texts, _, steps = texts_of_search(recipe, tokenizer, corpus)
        sizes = [part.num_tokens for part in (texts.held_out, texts.search)]
        learned = predictions_of(texts.learn, training.length)
        return Amounts(steps, learned, *sizes, text=corpus.num_tokens)
    _, tokenizer = shared_tokenizer(recipe, teacher, student)
    say(f"reading {', '.join(sources_of(recipe.data))}")
    corpus = read_corpus(recipe.data, tokenizer, classes=classes_of(teacher), teachers=numbers_of_teachers(recipe))
    batches, held_out = learned_and_held_out(recipe, task_of(teacher), tokenizer, corpus)
    writing = writing_of(recipe)
    per_step = training.rows * training.length if writing is None else round(writing.read)
    steps = num_steps(training, tokens_per_step=per_step, steps_per_epoch=batches.steps_per_epoch)
    learned = predictions_of(batches.corpus, training.length)
    return Amounts(steps, learned, held_out.num_tokens, 0, corpus.num_tokens, writing)


def predictions_of(corpus: TokenCorpus, length: int) -> int:
    """How many predictions of a text a teacher with this context labels."""
    from potstill.soft_labels.planning import labelled_counts

    return int(labelled_counts(corpus, length).sum())


def writing_of(recipe: Recipe, prompt_tokens: float | None = None) -> Writing | None:
    """What the student writes itself, on average a step; `prompt_tokens` of a prompt, where the text has been looked at."""
    from potstill.planning import Writing

    table, training = recipe.training.on_policy, recipe.training
    if table is None:
        return None
    rows, prompt = table.rows or training.rows, prompt_tokens or float(table.prompt_tokens)
    read = table.share * rows * (prompt + table.new_tokens - 1) + (1 - table.share) * training.rows * training.length
    return Writing(table.share * rows, table.new_tokens, rows * table.refresh_every, read)


def _already_stored(recipe: Recipe) -> int:
    """Predictions whose labels are on disk: this teacher's, in this context, of this kind."""
    try:
        store = open_store(recipe, Path("runs") / recipe.name)
    except StoreError:
        return 0
    manifest, wanted = store.manifest, build_codec(recipe.labels, recipe.loss.temperature)
    found = (manifest.teacher["name"], manifest.context, manifest.codec)
    return store.num_tokens if found == (recipe.teacher.model, recipe.training.length, wanted) else 0
