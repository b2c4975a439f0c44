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
from potstill.recipe.teaching import MixtureTable, OtherTeacher, names_of, sharing
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
    same."""
    from potstill.models import (
        check_context,
        check_tensor_parallel,
        group_size,
        join_processes,
        load_shape,
        load_tokenizer,
    )
    from potstill.teachers import check_chat_rendering, shared_predictions

    for other in sharing(recipe.teacher):
        shape, theirs = load_shape(other.model), load_tokenizer(other.model)
        check_context(shape, recipe.training.length)
        if recipe.teacher.tensor_parallel and other.labels is None:
            check_tensor_parallel(shape, group_size(recipe.teacher.tensor_parallel, join_processes().num_processes))
        if theirs.chat_template is not None and tokenizer.chat_template is not None:
            check_chat_rendering(theirs, tokenizer)
        size = min(size, shared_predictions(shape, student, theirs, tokenizer))
    return size


def label_one_at_a_time(recipe: Recipe, out: Path, say: Say) -> None:
    """Where the recipe asks for it, each teacher of the mixture labels the text into its own folder, and is freed before the next is
    loaded. What is there already is not labelled again."""
    from potstill.models import load_model, load_shape
    from potstill.runs import RunFolder
    from potstill.soft_labels import label

    if recipe.teacher.mixture is None or not recipe.teacher.mixture.one_at_a_time:
        return
    RunFolder(out).refuse_strangers()
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
    _check_goes_together(teachers, mixture)
    if mixture.by == "column":
        return RoutedTeacher(teachers, corpus.teachers)
    weights = (mixture.weight, *(other.weight for other in mixture.others))
    return MixtureTeacher(tuple(teachers), weights, mixture.of, mixture.by)


def _check_goes_together(teachers: list[Teacher], mixture: MixtureTable) -> None:
    """A few listed tokens mix with their like alone, and as probabilities weighed beforehand."""
    from potstill.soft_labels import Sampled, TopK
    from potstill.teachers import StoredTeacher

    codecs = [one.store.manifest.codec if isinstance(one, StoredTeacher) else None for one in teachers]
    few = [isinstance(codec, Sampled | TopK) for codec in codecs]
    if not any(few):
        return
    if (
        len({type(codec) for codec in codecs}) > 1
        or mixture.by in ("confidence", "cross_entropy")
        or mixture.of == "logits"
    ):
        raise RecipeError(
            "labels on disk that list a few tokens (tiers sampled and topk) mix with labels of their own tier alone, by fixed weights, as "
            'probabilities: label with tier = "hidden", which mixes with live teachers in every way'
        )


def _store_of(recipe: Recipe, out: Path, other: OtherTeacher) -> Store | None:
    from potstill.soft_labels import Store, store_at

    if recipe.teacher.mixture is not None and recipe.teacher.mixture.one_at_a_time:
        return Store(out / _FOLDER / other.called)
    return None if other.labels is None else store_at(other.labels)
