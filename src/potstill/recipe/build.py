"""Tables of a recipe -> the objects they describe. The rooms are imported inside: a recipe decodes without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import RecipeError
from potstill.recipe.kinds import (
    ConstantTable,
    CopiedStudent,
    CosineTable,
    FreshStudent,
    LinearTable,
    ModelStudent,
    PrunedStudent,
    SearchedStudent,
    StudentTable,
)
from potstill.recipe.schema import LossTable, Recipe, TrainingTable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TextBatches, TokenCorpus
    from potstill.losses import SoftLabelLoss
    from potstill.models import Task
    from potstill.students import Importance, Shape
    from potstill.training import Schedule, TrainingSettings
    from potstill.types import Lineage


def build_measure(loss: LossTable) -> SoftLabelLoss:
    """The loss that [loss] describes."""
    from potstill.losses import DIVERGENCES, SoftLabelLoss

    settings = loss.divergence.model_dump(exclude={"kind"})
    return SoftLabelLoss(DIVERGENCES[loss.divergence.kind](**settings), loss.temperature, loss.alpha)


def build_schedule(schedule: CosineTable | LinearTable | ConstantTable) -> Schedule:
    """The learning-rate schedule that [training.schedule] describes."""
    from potstill.training import Constant, Cosine, Linear

    match schedule:
        case CosineTable():
            return Cosine(schedule.warmup, schedule.floor)
        case LinearTable():
            return Linear(schedule.warmup, schedule.floor)
        case ConstantTable():
            return Constant(schedule.warmup)


def build_settings(
    training: TrainingTable, *, steps: int, dtype: torch.dtype, tensor_parallel: bool | int = False
) -> TrainingSettings:
    """What the loop is told. `steps` and `dtype` are decided outside: by the text's size, and by measuring where auto."""
    from potstill.training import TrainingSettings

    return TrainingSettings(
        steps=steps,
        learning_rate=training.learning_rate,
        schedule=build_schedule(training.schedule),
        micro_rows=training.micro_rows,
        weight_decay=training.weight_decay,
        betas=(training.beta1, training.beta2),
        max_gradient_norm=training.max_gradient_norm,
        skip_spikes=training.skip_spikes or None,
        tensor_parallel=tensor_parallel,
        dtype=dtype,
        gradient_checkpointing=training.gradient_checkpointing,
        compile_loss=training.compile_loss,
        checkpoint_every=training.checkpoint_every,
        seed=training.seed,
    )


def build_correction(recipe: Recipe, *, dtype: torch.dtype) -> TrainingSettings | None:
    """How the teacher learns the text first: as the student does, but for how long and how fast."""
    wanted = recipe.teacher.correction
    if wanted is None:
        return None
    steps = max(1, round(wanted.tokens / (recipe.training.rows * recipe.training.length)))
    settings = build_settings(recipe.training, steps=steps, dtype=dtype)
    return replace(settings, learning_rate=wanted.learning_rate)


def build_student(
    student: StudentTable, teacher: PreTrainedModel, importance: Importance | None = None
) -> tuple[PreTrainedModel, Lineage | None]:
    """The untouched student that [student] describes, in float32 whatever the teacher is held in, and where its parts come from.

    The same each time. A pruned one takes the first parts of the teacher where no scores are given: good for shapes and checks.
    """
    from potstill import students
    from potstill.models import load_model

    match student:
        case CopiedStudent():
            copied, lineage = students.copy_layers(teacher, _layers(student, teacher.config.num_hidden_layers))
            return copied.float(), lineage
        case PrunedStudent():
            scores = importance or students.Importance.unmeasured(teacher)
            shape = build_prune_shape(student, teacher, scores)
            pruned, lineage = students.prune(teacher, shape, scores)
            return pruned.float(), lineage
        case ModelStudent():
            return load_model(student.model), None
        case FreshStudent():
            return students.fresh(teacher, student.changes, student.seed), None
        case SearchedStudent():
            raise RecipeError(
                'this recipe looks for its student (student.kind = "search"): run it with `potstill compress`'
            )


def build_learner(recipe: Recipe, teacher: PreTrainedModel, importance: Importance | None) -> PreTrainedModel:
    """The untouched student of the recipe with what it learns through."""
    from potstill.students import add_lora

    student, _ = build_student(recipe.student, teacher, importance)
    if (lora := recipe.training.lora) is None:
        return student
    return add_lora(student, rank=lora.rank, alpha=lora.alpha, targets=lora.targets)


def build_prune_shape(student: PrunedStudent, teacher: PreTrainedModel, importance: Importance) -> Shape:
    """The shape that [student] describes; layers are chosen by the scores."""
    from potstill.students import Shape, choose_layers, cuttable_axes, shape_of_share

    layers = student.layers
    if isinstance(layers, int):
        layers = choose_layers(student.choose or "run", teacher.config.num_hidden_layers, layers, importance)
    shape = Shape(layers, student.ffn, student.heads, student.hidden, student.kv_heads)
    return (
        shape if student.to is None else shape_of_share(teacher, dict(cuttable_axes(teacher)), student.to, start=shape)
    )


def build_importance(
    student: StudentTable, teacher: PreTrainedModel, corpus: TokenCorpus, length: int
) -> Importance | None:
    """The scores that [student] is cut by: its own file's, or measured on the beginning of the text; None where nothing is cut by any."""
    from potstill.runs import held_out_sample
    from potstill.students import Importance, measure_importance, with_losses

    if not isinstance(student, PrunedStudent):
        return None
    if student.importance is not None:
        return Importance.load(Path(student.importance))
    looked_at = held_out_sample(corpus, student.tokens, length)
    found = measure_importance(teacher, looked_at, length=length)
    return with_losses(found, teacher, looked_at, length=length) if student.choose == "perplexity" else found


def build_shape(student: StudentTable, teacher: PreTrainedModel) -> PreTrainedModel:
    """The student without weights, from a teacher without weights (both on the meta device)."""
    import torch

    from potstill.models import load_shape
    from potstill.students import Importance, cuttable_axes, shaped

    match student:
        case ModelStudent():
            return load_shape(student.model)
        case PrunedStudent():
            shape = build_prune_shape(student, teacher, Importance.unmeasured(teacher))
            return shaped(teacher, shape, dict(cuttable_axes(teacher)))
        case _:
            with torch.device("meta"):
                return build_student(student, teacher)[0]


def build_batches(
    training: TrainingTable, task: Task, tokenizer: PreTrainedTokenizerBase, corpus: TokenCorpus
) -> TextBatches:
    """The text to learn from, by step number, as models of this kind read it."""
    from potstill.data import ClassBatches, MaskedBatches, Masking, PackedBatches

    shape = (corpus, training.length, training.rows)
    match task:
        case "causal":
            return PackedBatches(*shape, training.seed, training.packing)
        case "masked":
            return MaskedBatches(*shape, Masking.of(tokenizer), training.seed)
        case "classes":
            return ClassBatches(*shape, training.seed)


def num_steps(training: TrainingTable, *, tokens_per_step: int, steps_per_epoch: float) -> int:
    """Optimizer steps that `tokens`, `steps` or `epochs` come to; at least one.

    tokens_per_step   tokens read in a step: rows times length
    steps_per_epoch   steps that read the training text once
    """
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return max(1, -(-training.tokens // tokens_per_step))
    assert training.epochs is not None
    return max(1, round(training.epochs * steps_per_epoch))


def _layers(student: CopiedStudent, num_teacher_layers: int) -> Sequence[int]:
    from potstill.students import choose_layers

    if not isinstance(student.layers, int):
        return student.layers
    return choose_layers(student.choose or "even", num_teacher_layers, student.layers)
