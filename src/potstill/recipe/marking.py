"""Who marks, where a recipe has more than its own teacher: the teachers of a mixture, live or from disk."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import RecipeError
from potstill.recipe.build import build_measure, build_shape
from potstill.recipe.job import shared_tokenizer
from potstill.recipe.labelling import check_is_teacher, labelled_text, labelling_by
from potstill.recipe.schema import Recipe
from potstill.recipe.teaching import OtherTeacher, names_of, sharing
from potstill.recipe.text import Say

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TokenCorpus
    from potstill.soft_labels import Store
    from potstill.types import Teacher

_FOLDER = "soft_labels"


def size_of_all(recipe: Recipe, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: int) -> int:
    """How many tokens all teachers and the student share, from the models without their weights. VocabularyError where they don't mean the
    same, RecipeError where labels can't be weighed as asked."""
    from potstill.models import check_context, load_shape, load_tokenizer
    from potstill.teachers import check_chat_rendering, shared_predictions

    _check_weighing(recipe)
    for other in sharing(recipe.teacher):
        shape, theirs = load_shape(other.model), load_tokenizer(other.model)
        check_context(shape, recipe.training.length)
        if theirs.chat_template is not None and tokenizer.chat_template is not None:
            check_chat_rendering(theirs, tokenizer)
        size = min(size, shared_predictions(shape, student, theirs, tokenizer))
    return size


def label_one_at_a_time(recipe: Recipe, out: Path, say: Say) -> None:
    """Where the recipe asks for it, each teacher of the mixture labels the text into its own folder, and is freed before the next is
    loaded. What is there already is not labelled again."""
    from potstill.models import load_model, load_shape
    from potstill.soft_labels import label

    if recipe.teacher.mixture is None or not recipe.teacher.mixture.one_at_a_time:
        return
    shape = load_shape(recipe.teacher.model)
    student = build_shape(recipe.student, shape)
    size, tokenizer = shared_tokenizer(recipe, shape, student)
    size = size_of_all(recipe, student, tokenizer, size)
    corpus = labelled_text(recipe, tokenizer)
    models = [recipe.teacher.model, *(other.model for other in sharing(recipe.teacher))]
    for name, source in zip(names_of(recipe.teacher), models, strict=True):
        say(f"{name} labels the text")
        work = labelling_by(source, load_model(source), recipe, corpus, out / _FOLDER / name, tokenizer, size)
        for _ in label(work.teacher, work.corpus, work.folder):
            pass
        del work
        gc.collect()


def fingerprints_of_others(recipe: Recipe, out: Path) -> tuple[dict[str, str], dict[str, PreTrainedModel]]:
    """(what each of the other teachers is, the models of the live ones)."""
    from potstill.models import load_model
    from potstill.runs import fingerprint_of_model

    found, models = {}, {}
    for other in sharing(recipe.teacher):
        if (store := _store_of(recipe, out, other)) is not None:
            found[f"teacher {other.called}"] = str(store.manifest.teacher["fingerprint"])
        else:
            models[other.called] = load_model(other.model)
            found[f"teacher {other.called}"] = fingerprint_of_model(models[other.called])
    return found, models


def build_mixture(
    recipe: Recipe,
    out: Path,
    own: Teacher,
    models: dict[str, PreTrainedModel],
    corpus: TokenCorpus,
    identity: dict[str, str],
    dtype: torch.dtype,
) -> Teacher:
    """All teachers of the recipe as one; `own` is the recipe's, live or stored."""
    from potstill.models import hold_in_, on_this_device
    from potstill.soft_labels import Store
    from potstill.teachers import LiveTeacher, MixtureTeacher, RoutedTeacher, StoredTeacher

    mixture = recipe.teacher.mixture
    assert mixture is not None
    measure = build_measure(recipe.loss)

    def stored(store: Store) -> StoredTeacher:
        return StoredTeacher(store, corpus, tokenizer=identity["tokenizer"], measure=measure)

    if mixture.one_at_a_time:
        store = Store(out / _FOLDER / names_of(recipe.teacher)[0])
        check_is_teacher(store, identity["teacher"])
        own = stored(store)
    teachers: list[Teacher] = [own]
    for other in mixture.others:
        if (store := _store_of(recipe, out, other)) is not None:
            teachers.append(stored(store))
        else:
            model = models[other.called]
            hold_in_(model, dtype)
            teachers.append(LiveTeacher(on_this_device(model), size=own.num_tokens))
    if mixture.by == "column":
        return RoutedTeacher(teachers, corpus.teachers)
    weights = (mixture.weight, *(other.weight for other in mixture.others))
    return MixtureTeacher(tuple(teachers), weights, mixture.of, mixture.by)


def _store_of(recipe: Recipe, out: Path, other: OtherTeacher) -> Store | None:
    from potstill.soft_labels import Store

    if recipe.teacher.mixture is not None and recipe.teacher.mixture.one_at_a_time:
        return Store(out / _FOLDER / other.called)
    return None if other.labels is None else Store(Path(other.labels).expanduser())


def _check_weighing(recipe: Recipe) -> None:
    mixture = recipe.teacher.mixture
    if mixture is None:
        return
    if mixture.one_at_a_time and recipe.labels.tier in ("sampled", "topk"):
        for setting, value in (("by", mixture.by), ("of", mixture.of)):
            if value in ("confidence", "cross_entropy", "logits"):
                raise RecipeError(
                    f'teacher.mixture.{setting} = "{value}" needs whole distributions, and labels of tier "{recipe.labels.tier}" list a '
                    'few tokens: set labels.tier = "hidden"'
                )
    if recipe.loss.features:
        raise RecipeError(
            f"{' and '.join(recipe.loss.features)} compares with one teacher's hidden states: leave it or teacher.mixture out"
        )
