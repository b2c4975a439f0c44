"""A recipe -> what `potstill label` does, and the store it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import RecipeError, StoreError
from potstill.recipe.job import shared_tokenizer
from potstill.recipe.number_format import hold_as_begun_
from potstill.recipe.schema import LabelsTable, Recipe
from potstill.recipe.text import Say, read_corpus

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TokenCorpus
    from potstill.soft_labels import Codec, Manifest, Store
    from potstill.teachers import LiveTeacher

_FOLDER = "soft_labels"


@dataclass(frozen=True)
class Labelling:
    """Who labels what, and where to."""

    teacher: LiveTeacher
    corpus: TokenCorpus
    manifest: Manifest
    folder: Path


def labels_folder(recipe: Recipe, out: Path) -> Path:
    """Where the recipe's labels lie on this machine, for a run in `out`: of those at a URL, the copy."""
    from potstill.soft_labels import copy_of, is_url

    place = recipe.teacher.labels
    if place is None:
        return out / _FOLDER
    return copy_of(place) if is_url(place) else Path(place).expanduser()


def open_store(recipe: Recipe, out: Path) -> Store:
    """The recipe's labels, brought here where they are at a URL; StoreError where there are none."""
    from potstill.soft_labels import store_at

    return store_at(recipe.teacher.labels or str(out / _FOLDER))


def check_is_teacher(store: Store, fingerprint: str) -> None:
    """StoreError where the labels are another model's."""
    found = store.manifest.teacher
    if found["fingerprint"] != fingerprint:
        raise StoreError(
            f"the labels in {store.folder} are those of another teacher ({found['name']}): name that one as teacher.model, or label anew "
            "(--out)"
        )


def build_labelling(recipe: Recipe, folder: Path, *, say: Say, is_marked_here: bool = True) -> Labelling:
    """Load, check, tokenise; the store's folder is made or taken up. Raises a PotstillError for whatever can't work.

    A teacher that marks elsewhere takes no memory of this machine's accelerator.
    """
    from potstill.models import load_model
    from potstill.recipe.build import build_student

    teacher = recipe.teacher
    others = {name: getattr(teacher, name) for name in ("mixture", "average", "correction")}
    if given := [f"teacher.{name}" for name, table in others.items() if table is not None]:
        raise RecipeError(
            f"`potstill label` stores what teacher.model says by itself, and the recipe has {' and '.join(given)}: leave that out here; "
            "teacher.mixture.one_at_a_time lets `potstill distill` label with each teacher"
        )

    say(f"loading {recipe.teacher.model}")
    model = load_model(recipe.teacher.model)
    size, tokenizer = shared_tokenizer(recipe, model, build_student(recipe.student, model)[0])
    say(f"reading {recipe.data.source if isinstance(recipe.data.source, str) else ', '.join(recipe.data.source)}")
    corpus = labelled_text(recipe, tokenizer)
    return labelling_by(
        recipe.teacher.model, model, recipe, corpus, folder, tokenizer, size, is_marked_here=is_marked_here
    )


def labelled_text(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> TokenCorpus:
    """What is labelled: the text that is learned from."""
    corpus = read_corpus(recipe.data, tokenizer)
    corpus = corpus.part("train", held_out=recipe.data.held_out, search=recipe.data.search)
    if len(corpus) == 0:
        raise RecipeError("no document of the text is left to learn from: lower data.held_out, or give more text")
    return corpus


def labelling_by(
    name: str,
    model: PreTrainedModel,
    recipe: Recipe,
    corpus: TokenCorpus,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
    *,
    is_marked_here: bool = True,
) -> Labelling:
    """What the model called `name` is to label, as the recipe says; the store's folder is made or taken up."""
    from potstill.models import on_this_device
    from potstill.teachers import LiveTeacher

    manifest = _begun(name, model, recipe, corpus, folder, tokenizer, size)
    model = on_this_device(model) if is_marked_here else model
    return Labelling(LiveTeacher(model, size=size), corpus, manifest, folder)


def _begun(
    name: str,
    model: PreTrainedModel,
    recipe: Recipe,
    corpus: TokenCorpus,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    size: int,
) -> Manifest:
    """The manifest of the store that is made or taken up; the model is held in the number format it says."""
    from potstill.models import (
        check_context,
        check_head,
        check_packing,
        head_of,
        task_of,
    )
    from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer
    from potstill.soft_labels import Manifest, begin_store

    if recipe.teacher.kind == "translated":
        raise RecipeError(
            "labels are stored over tokens that teacher and student share: distil with a translated teacher live (`potstill distill`)"
        )
    if task_of(model) != "causal":
        raise RecipeError(
            f"labels are stored for causal language models alone, and {name} is a {type(model).__name__}: "
            "distil it with the teacher live"
        )
    length = recipe.training.length
    check_context(model, length)
    check_head(model)
    check_packing(model)
    fingerprint = fingerprint_of_model(model)
    begun = Manifest.of(folder)
    hold_as_begun_(model, recipe.training.dtype, None if begun is None else begun.dtype)
    head = head_of(model)
    manifest = Manifest(
        codec=build_codec(recipe.labels, recipe.loss.temperature),
        num_tokens=size,
        tokenizer=fingerprint_of_tokenizer(tokenizer),
        teacher={"name": name, "fingerprint": fingerprint, "dtype": str(model.dtype)},
        context=length,
        temperature=recipe.loss.temperature,
        seed=recipe.labels.seed,
        rows=recipe.labels.rows,
        head={"scale": head.scale, "softcap": head.softcap},
    )
    begin_store(folder, manifest, corpus, head)
    return manifest


def build_codec(labels: LabelsTable, temperature: float) -> Codec:
    """The tier that [labels] describes."""
    from potstill.soft_labels import Dense, Hidden, Sampled, TopK

    match labels.tier:
        case "sampled":
            return Sampled(labels.tau)
        case "topk":
            return TopK(labels.k, temperatures=tuple(sorted({1.0, temperature})))
        case "hidden":
            return Hidden(labels.bits)
        case "dense":
            return Dense()
