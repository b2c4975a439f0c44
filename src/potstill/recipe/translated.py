"""[teacher.translation] of a recipe: a teacher whose tokenizer is not the student's."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from potstill.errors import RecipeError
from potstill.recipe.specialists import is_teacher_alone
from potstill.recipe.table import Table

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.losses import TranslatedLoss
    from potstill.recipe.schema import Recipe
    from potstill.runs import Job
    from potstill.teachers import TranslatedTeacher


class TranslationTable(Table):
    """How a teacher of another tokenizer is listened to, where its text and the student's have a token boundary in common."""

    how: Literal["matched", "spans", "uld"] = "matched"
    """matched: tokens that both have, by loss.divergence. spans: likelihoods of stretches of text. uld: sorted probabilities."""
    tau: Annotated[float, Field(gt=0.0)] = 100.0
    """spans: the root of the likelihoods that is compared; large: surprises are compared, 1: probabilities."""
    unmatched: Annotated[float, Field(ge=0.0)] = 0.0
    """matched: weight of the sorted probabilities of the tokens that only one has."""


def check_translation(recipe: Recipe) -> TranslationTable:
    """The table; RecipeError for what can't go with a translated teacher."""
    loss, wanted = recipe.loss, recipe.teacher.translation or TranslationTable()
    how = wanted.how
    for is_wrong, what in (
        (recipe.student.kind != "model", 'the student needs a tokenizer of its own: set student.kind = "model"'),
        (
            recipe.teacher.correction is not None,
            "a copy of it can't learn from the student's tokens: leave teacher.correction out",
        ),
        (
            bool(loss.features),
            f"its hidden states stand at other places of the text: leave {' and '.join(loss.features)} out",
        ),
        (
            recipe.teacher.mixture is not None or recipe.teacher.average is not None or recipe.evaluation.smoothing,
            "it marks alone, in tokens of its own: leave teacher.mixture, teacher.average and evaluation.smoothing out",
        ),
        (
            how == "uld" and is_teacher_alone(loss),
            "sorted probabilities never say which token they are of: set loss.alpha below 1, so that the text says it",
        ),
        (
            how != "matched" and loss.divergence.kind != "forward_kl",
            f"how = {how!r} has a distance of its own: leave loss.divergence out",
        ),
        (how == "spans" and loss.temperature != 1, "likelihoods of spans have `tau`: leave loss.temperature out"),
    ):
        if is_wrong:
            raise RecipeError(f'teacher.kind = "translated": {what}')
    return wanted


def build_translated_measure(recipe: Recipe) -> TranslatedLoss:
    """The loss that [loss] and [teacher.translation] describe."""
    from potstill.losses import DIVERGENCES, MatchedTokens, SortedProbabilities, SpanLikelihood, TranslatedLoss

    loss, wanted = recipe.loss, check_translation(recipe)
    match wanted.how:
        case "uld":
            how = SortedProbabilities(loss.temperature)
        case "spans":
            how = SpanLikelihood(wanted.tau)
        case "matched":
            settings = loss.divergence.model_dump(exclude={"kind"})
            how = MatchedTokens(DIVERGENCES[loss.divergence.kind](**settings), loss.temperature, wanted.unmatched)
    return TranslatedLoss(how, loss.alpha)


def translated_job(job: Job, teacher: TranslatedTeacher, recipe: Recipe) -> tuple[Job, dict[str, object]]:
    """(the job with the teacher's own held-out text and a loss across tokenizers, what the two tokenizers have in common)."""
    held_out, theirs = teacher.retold(job.held_out)
    found = teacher.coverage(next(job.batches.from_step(0)))
    changed = replace(job, held_out=held_out, teacher_held_out=theirs, measure=build_translated_measure(recipe))
    return changed, {"translation": asdict(found)}


def build_translated(
    recipe: Recipe, model: PreTrainedModel, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TranslatedTeacher:
    """The teacher in the student's tokens; both models may be without weights. VocabularyError where a tokenizer loses text."""
    from potstill.models import head_of, load_tokenizer, task_of
    from potstill.teachers import LiveTeacher, TranslatedTeacher

    check_translation(recipe)
    if task_of(student) != "causal":
        raise RecipeError(
            f'teacher.kind = "translated" is for causal language models, and the student is a {type(student).__name__}'
        )
    own = load_tokenizer(recipe.teacher.model)
    live = LiveTeacher(model, size=min(head_of(model).num_tokens, num_known(own)))
    size = min(head_of(student).num_tokens, num_known(tokenizer))
    return TranslatedTeacher(live, own, tokenizer, size=size, packs=recipe.training.packing)


def num_known(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many token ids it can give, gaps included."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1
