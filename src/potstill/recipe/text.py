"""[data] of a recipe -> the tokenised text: what is learned from, what is held out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import PotstillError, RecipeError, VocabularyError
from potstill.recipe.build import build_batches
from potstill.recipe.schema import DataTable, Recipe
from potstill.recipe.teaching import numbers_of_teachers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.data import TextBatches, TokenCorpus
    from potstill.models import Task
    from potstill.runs import RunFolder

Say = Callable[[str], None]


def learned_and_held_out(
    recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase, corpus: TokenCorpus
) -> tuple[TextBatches, TokenCorpus]:
    """(what is learned from, in batches; what is scored on of what is held out). RecipeError when either part is empty."""
    from potstill.runs import held_out_sample

    training = recipe.training
    shares = {"held_out": recipe.data.held_out, "search": recipe.data.search}
    learned, held_out = (corpus.part(split, **shares) for split in ("train", "held_out"))
    for part, what, advice in (
        (learned, "leaves none to learn from", "lower it"),
        (held_out, "holds none of them out, so nothing could be measured", "raise it"),
    ):
        if len(part) == 0:
            raise RecipeError(
                f"data.held_out = {recipe.data.held_out:g} of {len(corpus)} documents {what}: {advice}, or give more documents"
            )
    if task != "classes":  # labelled texts are short, and aren't cut
        held_out = held_out_sample(held_out, recipe.evaluation.tokens, training.length)
    return build_batches(training, task, tokenizer, learned), held_out


def read_corpus(
    data: DataTable,
    tokenizer: PreTrainedTokenizerBase,
    *,
    classes: Mapping[str, int] | None = None,
    teachers: Mapping[str, int] | None = None,
    most: int | None = None,
    say: Say | None = None,
) -> TokenCorpus:
    """The tokenised text of [data], or of its first `most` documents; with `classes`, labelled; with `teachers`, each record names one."""
    from potstill.data import Columns, read_documents, tokenize

    sources = sources_of(data)
    columns = Columns(**data.columns.model_dump())
    documents = chain.from_iterable(
        read_documents(source, columns=columns, tokenizer=tokenizer, split=data.split) for source in sources
    )
    limits = [limit for limit in (most, data.max_documents) if limit is not None]
    progress = None if say is None else lambda documents, tokens: say(f"{documents:,} documents, {tokens:,} tokens")
    some = islice(documents, min(limits)) if limits else documents
    return tokenize(some, tokenizer, classes=classes, teachers=teachers, progress=progress)


def corpus_of_run(
    recipe: Recipe, folder: RunFolder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, size: int, say: Say
) -> TokenCorpus:
    """The tokenised text of the run, read once and kept in its folder. VocabularyError where it has tokens that the models don't share."""
    from potstill.data import TokenCorpus
    from potstill.models import classes_of

    kept = folder.path / "tokens"
    if (kept / "corpus.json").exists():
        return TokenCorpus.load(kept)
    say(f"reading {', '.join(sources_of(recipe.data))}")
    classes = classes_of(model)
    try:
        corpus = read_corpus(recipe.data, tokenizer, classes=classes, teachers=numbers_of_teachers(recipe))
        if classes is None and corpus.num_tokens and int(corpus.ids.max()) >= size:
            highest = int(corpus.ids.max())
            raise VocabularyError(
                f"the text has token {highest} ({tokenizer.decode([highest])!r}), and teacher and student share only the first {size:,}: "
                "use a tokenizer without tokens of its own"
            )
    except PotstillError:
        folder.leave()
        raise
    corpus.save(kept)
    return TokenCorpus.load(kept)


def fingerprint_of_text(data: DataTable) -> str:
    """Names and sizes of the files: cheap, and enough to notice that another text stands at the same place."""
    from potstill.data import source_files

    digest = hashlib.blake2b(digest_size=16)
    for source in sources_of(data):
        digest.update(source.encode())
        for file in source_files(source):
            name = file.relative_to(Path(source).expanduser()).as_posix()
            digest.update(f"{name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def check_is_apart(data: DataTable, out: Path) -> None:
    """A run inside its own text would change the text as it goes, and be read as text the next time."""
    for source in sources_of(data):
        folder = Path(source).expanduser()
        if os.path.isdir(folder) and out.resolve().is_relative_to(folder.resolve()):
            raise RecipeError(
                f"the run's folder {out} lies inside the text it is to learn from ({source}): choose another (--out)"
            )


def sources_of(data: DataTable) -> tuple[str, ...]:
    """Where the text comes from, as a list."""
    return (data.source,) if isinstance(data.source, str) else data.source
