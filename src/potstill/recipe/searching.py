"""A recipe whose student is searched -> the search in its run directory. Everything that can be refused is refused here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import PotstillError, RecipeError
from potstill.recipe.build import build_batches, build_measure, build_settings, num_steps
from potstill.recipe.kinds import CosineTable
from potstill.recipe.labelling import build_codec
from potstill.recipe.number_format import dtype_of_run
from potstill.recipe.schema import Recipe
from potstill.recipe.searched import BarTable, SearchedStudent
from potstill.recipe.text import Say, check_is_apart, fingerprint_of_text, read_corpus, sources_of
from potstill.recipe.toml import recipe_toml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from potstill.data import TextBatches, TokenCorpus
    from potstill.evaluation import HarnessTask, Questions
    from potstill.runs import RunFolder
    from potstill.search import Bar, LadderWanted, Search, Texts
    from potstill.search.kept import Facts
    from potstill.soft_labels import Manifest
    from potstill.teachers import LiveTeacher

# The text to choose by is read again and again: so many tokens of it at most.
CHOOSING_TOKENS = 30_000
# Of [training] and [loss], what the student doesn't depend on, or the search decides itself.
_NO_MATTER = tuple(
    f"training.{name}"
    for name in (
        "trackers",
        "tokens",
        "epochs",
        "steps",
        "schedule",
        "micro_rows",
        "checkpoint_every",
        "gradient_checkpointing",
        "compile_loss",
    )
)
# Fewer documents can't prove anything.
_FEWEST = 8


def build_search(recipe: Recipe, out: Path, *, say: Say) -> Search:
    """Load, check, tokenise. Raises a PotstillError for whatever can't work; `say` is told what takes a while."""
    from potstill.models import hold_in_
    from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer
    from potstill.search import Search, SearchJob

    wanted = check_search(recipe, out)
    questions = _questions(wanted)
    say(f"loading {recipe.teacher.model}")
    teacher, tokenizer = _teacher(recipe)
    model = teacher.model
    identity = {
        "teacher": fingerprint_of_model(model),
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
        "text": fingerprint_of_text(recipe.data),
    }
    asked = "; ".join(sorted(found.fingerprint for found in questions.values()))
    folder, facts = _folder(out), _facts(recipe, identity, asked)
    corpus = _corpus(recipe, folder, tokenizer, facts["text"], say)
    format_of_run = dtype_of_run(recipe.training.dtype, folder, say)
    hold_in_(model, format_of_run)
    texts, batches, steps = texts_of_search(recipe, tokenizer, corpus)
    settings = build_settings(recipe.training, steps=steps, dtype=format_of_run)
    dtype = str(format_of_run).removeprefix("torch.")
    learned = {"dtype": dtype, "tokens that are marked": texts.learn.num_tokens}
    more = {"labels": learned, "importance": learned, "candidates": learned | {"steps": steps}}
    job = SearchJob(
        teacher=teacher,
        source=recipe.teacher.model,
        tokenizer=tokenizer,
        texts=texts,
        batches=batches,
        bars=tuple(_bar(table) for table in wanted.bars),
        questions={name: found.split() for name, found in questions.items()},
        ladder=_ladder(wanted),
        manifest=_manifest(recipe, teacher, identity),
        measure=build_measure(recipe.loss),
        settings=settings,
        length=recipe.training.length,
        made_from={step: {"dtype": dtype, **found, **more.get(step, {})} for step, found in facts.items()},
        recipe=recipe_toml(recipe),
        looks=wanted.looks,
        control=recipe.evaluation.control,
        int4=wanted.int4,
        speed=recipe.evaluation.speed,
        until_flat=wanted.until_flat,
        price_per_hour=recipe.evaluation.price_per_hour,
    )
    return Search(job, folder)


def check_search(recipe: Recipe, out: Path) -> SearchedStudent:
    """What is searched; RecipeError for a recipe that can't be."""
    wanted = recipe.student
    if not isinstance(wanted, SearchedStudent):
        raise RecipeError(
            f'`potstill compress` looks for the student, and this recipe has one (student.kind = "{wanted.kind}"): run it with '
            '`potstill distill`, or set student.kind = "search"'
        )
    teacher = recipe.teacher
    others = (teacher.correction, teacher.mixture, teacher.average)
    if teacher.kind != "live" or any(other is not None for other in others) or recipe.loss.features:
        raise RecipeError(
            "a search stores the teacher's labels itself, and learns from them alone: leave teacher.kind, teacher.correction, "
            "teacher.mixture, teacher.average, loss.hidden, loss.embeddings and loss.attention out"
        )
    ignored = {
        "training.lora": recipe.training.lora is not None,
        "training.trackers": bool(recipe.training.trackers),
        "training.schedule (it has its own)": recipe.training.schedule != CosineTable(),
        "evaluation.untouched = false": not recipe.evaluation.untouched,
        "evaluation.smoothing": recipe.evaluation.smoothing,
        "evaluation.control_same_time": recipe.evaluation.control_same_time,
    }
    if given := [name for name, is_given in ignored.items() if is_given]:
        raise RecipeError(f"a search has no place for {' and '.join(given)}: leave it out")
    check_is_apart(recipe.data, out)
    return wanted


def _teacher(recipe: Recipe) -> tuple[LiveTeacher, PreTrainedTokenizerBase]:
    """The teacher, asked whether it can be what a search needs, and its tokenizer."""
    from potstill.models import (
        check_context,
        check_head,
        check_packing,
        load_model,
        load_tokenizer,
        on_this_device,
        task_of,
    )
    from potstill.teachers import LiveTeacher, shared_predictions

    model, tokenizer = load_model(recipe.teacher.model), load_tokenizer(recipe.teacher.model)
    if task_of(model) != "causal":
        raise RecipeError(
            f"the search is for causal language models, and {recipe.teacher.model} is a {type(model).__name__}"
        )
    check_context(model, recipe.training.length)
    check_head(model)
    check_packing(model)
    size = shared_predictions(model, model, tokenizer, tokenizer)
    return LiveTeacher(on_this_device(model), size=size), tokenizer


def _manifest(recipe: Recipe, teacher: LiveTeacher, identity: dict[str, str]) -> Manifest:
    """What decides a label."""
    from potstill.models import head_of
    from potstill.soft_labels import Manifest

    head = head_of(teacher.model)
    return Manifest(
        codec=build_codec(recipe.labels, recipe.loss.temperature),
        num_tokens=teacher.num_tokens,
        tokenizer=identity["tokenizer"],
        teacher={
            "name": recipe.teacher.model,
            "fingerprint": identity["teacher"],
            "dtype": str(teacher.model.dtype),
        },
        context=recipe.training.length,
        temperature=recipe.loss.temperature,
        seed=recipe.labels.seed,
        rows=recipe.labels.rows,
        head={"scale": head.scale, "softcap": head.softcap},
    )


def _folder(out: Path) -> RunFolder:
    from potstill.errors import RunDirectoryError
    from potstill.runs import RunFolder

    if out.exists() and not out.is_dir():
        raise RunDirectoryError(f"{out} is a file: choose another folder for this run (--out)")
    others = [one.name for one in out.iterdir() if one.name != ".lock"] if out.is_dir() else []
    if others and not (out / "steps").is_dir():
        raise RunDirectoryError(
            f"{out} holds something that is not a search ({sorted(others)[0]}): choose another folder (--out)"
        )
    (out / "steps").mkdir(parents=True, exist_ok=True)
    folder = RunFolder(out)
    folder.lock()
    return folder


def _facts(recipe: Recipe, identity: dict[str, str], questions: str) -> dict[str, Facts]:
    """What each step is made from. `questions`: those that are asked; what is asked of the answers is no part of it."""
    flat = _flat(recipe.model_dump(exclude_none=True))

    def under(*tables: str, but: tuple[str, ...] = ()) -> dict[str, object]:
        return {
            name: value
            for name, value in flat.items()
            if any(name == table or name.startswith(f"{table}.") for table in tables) and name not in but
        }

    text = under("data") | {"text": identity["text"], "tokenizer": identity["tokenizer"]}
    read = text | {"teacher": identity["teacher"]} | under("training.length")
    labels = read | under("labels", "loss.temperature")
    importance = read | under("student.tokens")
    learning = {name: value for name, value in under("training", "loss").items() if not name.startswith(_NO_MATTER)}
    return {
        "text": text,
        "teacher": read | under("evaluation.tokens") | {"questions": questions},
        "judging": read | under("evaluation.tokens") | {"questions": questions},
        "labels": labels,
        "importance": importance,
        "candidates": labels | importance | learning | {"questions": questions},
    }


def _flat(table: object, prefix: str = "") -> dict[str, object]:
    if isinstance(table, dict):
        items = [(f"{prefix}.{name}" if prefix else str(name), value) for name, value in table.items()]
    elif isinstance(table, tuple | list) and any(isinstance(value, dict) for value in table):
        items = [(f"{prefix}.{place}", value) for place, value in enumerate(table)]
    else:
        return {prefix: table}
    return {name: value for inner, found in items for name, value in _flat(found, inner).items()}


def _corpus(
    recipe: Recipe, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, facts: Facts, say: Say
) -> TokenCorpus:
    """The tokenised text, read once."""
    from potstill.data import TokenCorpus
    from potstill.search.kept import Kept

    kept = folder.path / "tokens"
    if (why := Kept(folder).begin("text", facts, [kept])) is not None:
        say(f"reading the text again: {why}")
    if not (kept / "corpus.json").exists():
        say(f"reading {', '.join(sources_of(recipe.data))}")
        try:
            read_corpus(recipe.data, tokenizer).save(kept)
        except PotstillError:
            folder.leave("steps/text.json")
            raise
    return TokenCorpus.load(kept)


def texts_of_search(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, corpus: TokenCorpus
) -> tuple[Texts, TextBatches, int]:
    """(texts by what they are for, batches to learn from, steps of one whole training)."""
    import numpy as np

    from potstill.data import place_of
    from potstill.runs import held_out_sample
    from potstill.search import Texts

    training, shares = recipe.training, {"held_out": recipe.data.held_out, "search": recipe.data.search}
    learn, search, held_out = (corpus.part(split, **shares) for split in ("train", "search", "held_out"))
    for part, name, fewest, share in (
        (learn, "to learn from", 2, 1 - recipe.data.held_out - recipe.data.search),
        (search, "to choose by (data.search)", 2, recipe.data.search),
        (held_out, "to judge by (data.held_out)", _FEWEST, recipe.data.held_out),
    ):
        if len(part) < fewest:
            about = f", about {math.ceil(fewest / share):,} of such a share," if share > 0 else ""
            raise RecipeError(
                f"of {len(corpus):,} documents {len(part)} are left {name}, and it takes {fewest}: give more documents{about} or "
                "divide them otherwise. A file of plain text is one document; a line of .jsonl or a file of a folder is one each"
            )
    per_step = training.rows * training.length
    steps = num_steps(training, tokens_per_step=per_step, steps_per_epoch=learn.num_tokens / per_step)
    if steps * per_step < learn.num_tokens:  # what is not read needs no labels
        order = np.array(sorted(range(len(learn)), key=lambda document: place_of(learn.keys[document])))
        sizes = np.diff(learn.offsets)[order]
        learn = learn.select(np.sort(order[: 1 + int(np.searchsorted(np.cumsum(sizes), steps * per_step))]))
    looked_at = held_out_sample(
        learn, recipe.student.tokens if isinstance(recipe.student, SearchedStudent) else 0, training.length
    )
    texts = Texts(
        learn,
        held_out_sample(search, CHOOSING_TOKENS, training.length),
        held_out_sample(held_out, recipe.evaluation.tokens, training.length),
        looked_at,
    )
    return texts, build_batches(training, "causal", tokenizer, learn), steps


def _questions(wanted: SearchedStudent) -> dict[str, Questions | HarnessTask]:
    from potstill.evaluation import read_questions, read_task
    from potstill.search.bar import METRICS

    found: dict[str, Questions | HarnessTask] = {}
    for bar in wanted.bars:
        name = bar.asks
        if name is None:
            continue
        if name in found or name in METRICS:
            raise RecipeError(
                f"{bar.questions or bar.task}: questions go by this name, and {name!r} is taken: rename one"
            )
        if bar.task is not None:
            found[name] = read_task(bar.task, score=bar.how)
        else:
            path = Path(str(bar.questions)).expanduser()
            found[name] = read_questions(path, judging=bar.judging, how=bar.how, new_tokens=bar.new_tokens)
    return found


def _bar(table: BarTable) -> Bar:
    from potstill.search import Bar

    return Bar(table.asks or table.metric, table.least, table.absolute)


def _ladder(wanted: SearchedStudent) -> LadderWanted:
    from potstill.search import LadderWanted, Limits

    limits = Limits(wanted.max_parameters, wanted.max_bytes, wanted.min_speed)
    return LadderWanted(wanted.shares, wanted.cuts, None if limits == Limits() else limits, wanted.screened)
