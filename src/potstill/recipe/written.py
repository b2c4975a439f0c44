"""A recipe for `potstill write` -> prompts, writer, selection: everything checked before the first token."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import DataError, RecipeError
from potstill.recipe.decode import decode_as, read_tables, refuse_paths_beside
from potstill.recipe.number_format import hold_as_begun_
from potstill.recipe.text import Say
from potstill.recipe.writing import DuplicatesTable, FilterTable, LocalTable, ServerTable, WritingRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from potstill.writing import Filter, LocalWriter, Prompt, Sampling, Selection, ServerWriter, Steps

_NEED_AN_ANSWER = ("exact", "regex")


@dataclass(frozen=True)
class BuiltWriting:
    """Who writes what, what is kept, and what decides the text (`identity`, which a journal belongs to)."""

    recipe: WritingRecipe
    prompts: tuple[Prompt, ...]
    writer: LocalWriter | ServerWriter
    selection: Selection
    steps: Steps | None
    identity: Mapping[str, object]


def load_writing(path: Path | str, *, sets: Sequence[str] = ()) -> WritingRecipe:
    """The recipe in a TOML file, with settings changed as in `load_recipe`. Raises RecipeError naming every mistake."""
    path = Path(path)
    tables, shown_as = read_tables(path, sets, shows_values=False)
    recipe = decode_as(WritingRecipe, tables, source=shown_as)
    places = [("prompts.source", recipe.prompts.source)]
    if recipe.writer.kind == "local":
        places.append(("writer.model", recipe.writer.model))
    refuse_paths_beside(places, path)
    return recipe


def build_writing(
    recipe: WritingRecipe, *, say: Say, begun: Mapping[str, object] | None = None, is_written_here: bool = True
) -> BuiltWriting:
    """Read the prompts, load the model or find the key. Raises a PotstillError for whatever can't work.

    begun  what the journal is of that this goes on with (`begun_with`)

    A model that writes elsewhere takes no memory of this machine's accelerator.
    """
    from potstill.writing import Duplicates, Framing, PromptColumns, Rationale, Sampling, Selection, read_prompts

    table, output = recipe.prompts, recipe.output
    filters = tuple(_filters(recipe.filters))
    selection = Selection(
        filters,
        next(
            (
                Duplicates(one.similar, one.words, one.whole)
                for one in recipe.filters
                if isinstance(one, DuplicatesTable)
            ),
            None,
        ),
        None if output.rationale_pattern is None else Rationale.of(output.rationale_pattern),
        output.keep,
        output.cut,
    )
    is_chat = recipe.writer.endpoint == "chat" if isinstance(recipe.writer, ServerTable) else table.chat
    if table.system is not None and not is_chat:
        raise RecipeError('prompts.system needs a conversation: set prompts.chat = true, or writer.endpoint = "chat"')
    framing = Framing(table.template, table.system, is_chat, table.answer_pattern)
    columns = PromptColumns(**table.columns.model_dump())
    say(f"reading {table.source}")
    prompts = read_prompts(table.source, framing=framing, columns=columns, split=table.split, most=table.max_prompts)
    _check_answers(recipe, prompts)
    sampling = Sampling(**recipe.sampling.model_dump())
    writer, teacher, tokenizer = (
        _local(recipe.writer, sampling, say, begun or {}, is_written_here=is_written_here)
        if isinstance(recipe.writer, LocalTable)
        else _server(recipe, sampling)
    )
    identity = {"teacher": teacher, "sampling": recipe.sampling.model_dump(mode="json")}
    return BuiltWriting(recipe, prompts, writer, selection, _steps(recipe, tokenizer), identity)


def _local(
    table: LocalTable, sampling: Sampling, say: Say, begun: Mapping[str, object], *, is_written_here: bool
) -> tuple[LocalWriter, dict[str, object], PreTrainedTokenizerBase]:
    from potstill.models import check_context, load_model, load_tokenizer, on_this_device, task_of
    from potstill.runs import fingerprint_of_model, fingerprint_of_tokenizer
    from potstill.writing import LocalWriter

    say(f"loading {table.model}")
    model, tokenizer = load_model(table.model), load_tokenizer(table.model)
    if task_of(model) != "causal":
        raise RecipeError(f"{table.model} is a {type(model).__name__}, which can't write: use a causal language model")
    check_context(model, sampling.max_new_tokens + 1)
    teacher: dict[str, object] = {
        "kind": "local",
        "model": table.model,
        "fingerprint": fingerprint_of_model(model),
        "tokenizer": fingerprint_of_tokenizer(tokenizer),
    }
    before = begun.get("teacher")
    held = before.get("dtype") if isinstance(before, dict) else None
    dtype = hold_as_begun_(model, table.dtype, held, rounds=True)
    if held is not None or not isinstance(before, dict):  # a journal that doesn't say its own goes on as it is
        teacher["dtype"] = dtype
    model = on_this_device(model) if is_written_here else model
    return LocalWriter(model, tokenizer, sampling, table.rows), teacher, tokenizer


def _server(recipe: WritingRecipe, sampling: Sampling) -> tuple[ServerWriter, dict[str, object], None]:
    from potstill.writing import Asking, Server, ServerWriter

    table = recipe.writer
    assert isinstance(table, ServerTable)
    key = None
    if table.key_from is not None and not (key := os.environ.get(table.key_from, "").strip()):
        raise RecipeError(
            f"writer.key_from: the environment has no {table.key_from}, which should hold the server's key: export {table.key_from}=..."
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise RecipeError(
            f"writer.key_from: what {table.key_from} holds is no key: it has line breaks or letters no header can carry"
        )
    listed = table.top_logprobs
    if listed is None and (recipe.sampling.best_of > 1 or any(one.kind == "likelihood" for one in recipe.filters)):
        listed = 0  # the written tokens' own are needed, to choose by
    server = Server(table.url, key, table.timeout, table.attempts, table.first_wait, table.requests_per_minute)
    asking = Asking(table.model, sampling, table.endpoint, listed, table.send_seed, table.limit_name)
    # Not where it is: a server that is started again elsewhere goes on with the same journal.
    teacher: dict[str, object] = {
        "kind": "server",
        "model": table.model,
        "endpoint": table.endpoint,
        "top_logprobs": listed,
    }
    return ServerWriter(server, asking, table.concurrency), teacher, None


def _filters(tables: Sequence[FilterTable]) -> list[Filter]:
    """Numbered where there are several of a kind."""
    from potstill.data import judge_of, pattern_of
    from potstill.writing import found_in, judged, likely, long_enough

    found: list[Filter] = []
    for place, table in enumerate(tables):
        before = sum(other.kind == table.kind for other in tables[:place])
        name = f"{table.kind} {before + 1}" if before else table.kind
        match table.kind:
            case "exact":
                found.append(judged(name, judge_of("exact")))
            case "regex":
                found.append(judged(name, judge_of("regex", table.pattern)))
            case "found":
                found.append(found_in(name, pattern_of(table.pattern), is_wanted=table.wanted))
            case "python":
                judge = judge_of("python", table.function)
                found.append(judged(name, judge, at_least=table.at_least, whole=True))
            case "likelihood":
                found.append(likely(name, table.at_least))
            case "length":
                tokens = (table.min_tokens, table.max_tokens)
                characters = (table.min_characters, table.max_characters)
                found.append(long_enough(name, tokens=tokens, characters=characters))
            case "duplicates":
                pass
    return found


def _check_answers(recipe: WritingRecipe, prompts: Sequence[Prompt]) -> None:
    asking = next((one.kind for one in recipe.filters if one.kind in _NEED_AN_ANSWER), None)
    without = next((prompt.where for prompt in prompts if prompt.answer is None), None)
    if asking is not None and without is not None:
        raise DataError(
            f"{without} has no {recipe.prompts.columns.answer!r}, which the filter {asking!r} compares with: give one, or name its "
            "column in [prompts.columns]"
        )


def _steps(recipe: WritingRecipe, tokenizer: PreTrainedTokenizerBase | None) -> Steps | None:
    from potstill.models import load_tokenizer
    from potstill.writing import Steps

    table = recipe.output.steps
    if table is None:
        return None
    if table.tokenizer is not None:
        tokenizer = load_tokenizer(table.tokenizer)
    assert tokenizer is not None
    return Steps(tokenizer, table.share, table.label, table.rationale, table.between)
