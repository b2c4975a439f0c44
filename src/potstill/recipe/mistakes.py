"""Why a recipe was rejected: pydantic's list of errors as sentences for the person who wrote the recipe."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, ValidationError

_NEEDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "string_too_short": "a text that isn't empty",
    "tuple_type": "a list",
    "dict_type": "a table",
    "too_short": "at least one entry",
    "string_pattern_mismatch": "a name that a folder can have: no slash in it, no dot in front",
}
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
# What other trainers call a setting, which no likeness of letters would find.
_CALLED_ELSEWHERE = {
    "lr": "training.learning_rate",
    "peak_lr": "training.learning_rate",
    "batch_size": "training.rows",
    "per_device_train_batch_size": "training.micro_rows",
    "micro_batch_size": "training.micro_rows",
    "max_length": "training.length",
    "max_len": "training.length",
    "seq_len": "training.length",
    "seq_length": "training.length",
    "max_seq_len": "training.length",
    "max_seq_length": "training.length",
    "block_size": "training.length",
    "context_length": "training.length",
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.steps",
    "num_steps": "training.steps",
    "warmup_ratio": "training.schedule.warmup",
    "warmup_steps": "training.schedule.warmup",
    "lr_scheduler": "training.schedule.kind",
    "lr_scheduler_type": "training.schedule.kind",
    "max_grad_norm": "training.max_gradient_norm",
    "grad_clip": "training.max_gradient_norm",
    "save_steps": "training.checkpoint_every",
    "report_to": "training.trackers",
    "lora_rank": "training.lora.rank",
    "lora_r": "training.lora.rank",
    "lora_alpha": "training.lora.alpha",
    "dataset": "data.source",
    "dataset_name": "data.source",
    "text_column": "data.columns.text",
    "teacher_model": "teacher.model",
    "student_model": "student.model",
}
# A count as people and `--tokens` say it, which TOML has no way to.
_COUNT = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kmb])", re.IGNORECASE)
_THOUSANDS = {"k": 10**3, "m": 10**6, "b": 10**9}
_TABLE_TYPES = ("model_type", "model_attributes_type")


def explain(error: ValidationError, recipe: type[BaseModel]) -> list[str]:
    """One line a mistake: the place in the recipe (of this class), what is needed, what was found, and the likely intention."""
    return [_line(details, recipe) for details in error.errors(include_url=False)]


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """The known word this one is probably a slip of."""
    slip = word.lower().replace("-", "_")
    close = get_close_matches(slip, known, n=1, cutoff=0.6)
    return close[0] if close else None


def shown(value: object) -> str:
    """A value as TOML has it, with its type where the eye could miss it, cut short where it is long."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'the text "{_cut(value)}"'
        case int() | float():
            return f"{value}"
        case Mapping():
            return f"a table of {', '.join(map(str, value)) or 'nothing'}"
        case list() | tuple():
            inside = ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value)
            return f"the list [{_cut(inside)}]"
        case datetime.date() | datetime.time():
            return f"the date or time {value} (a text needs quotes)"
        case None:
            return "nothing"
        case _:
            return _cut(repr(value))


def _line(details: ErrorDetails, recipe: type[BaseModel]) -> str:
    path, table = _place(details["loc"], recipe)
    name, found, kind = ".".join(path), details.get("input"), details["type"]
    context = details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            # Of a server's table nothing is shown: a key may stand there by mistake.
            found_as = "" if path[0] == "writer" else f" (found {shown(found)})"
            return f"{name}: no such setting{found_as}; {_intention(path, table, recipe)}"
        case "missing":
            return f"{name}: is missing, and a run needs it{_meaning(table, path[-1])}"
        case "mistake":
            sentence = str(context["message"])
            is_whole_table = isinstance(found, Mapping)
            return f"{name}: {sentence}" if is_whole_table else f"{name}: {sentence}, found {shown(found)}"
        case "literal_error":
            expected = str(context["expected"]).replace(" or ", ", ").split(", ")
            known = [str(value) for value in _literals(table, path)] or [one.strip("'") for one in expected]
            return f"{name}: needs {_one_of(known)}, found {shown(found)}{_hint(found, known)}"
        case "union_tag_invalid":
            known = [tag.strip("'") for tag in str(context["expected_tags"]).split(", ")]
            return f"{name}.kind: needs {_one_of(known)}, found {shown(context['tag'])}{_hint(context['tag'], known)}"
        case "union_tag_not_found":
            return f"{name}.kind: is missing; it is {_one_of(list(_kinds(table, path[-1])))}"
        case _ if kind in _TABLE_TYPES:
            example = f'{{ kind = "{found}" }}' if isinstance(found, str) and _kinds(table, path[-1]) else "{ ... }"
            return f"{name}: needs a table, as {path[-1]} = {example}, found {shown(found)}"
        case _ if kind in _LIMITS:
            words, key = _LIMITS[kind]
            return f"{name}: needs a number {words} {context[key]:g}, found {shown(found)}"
        case _:
            written = _written_out(found) if kind == "int_type" else ""
            return f"{name}: needs {_NEEDS.get(kind, details['msg'])}, found {shown(found)}{written}"


def _place(location: tuple[int | str, ...], recipe: type[BaseModel]) -> tuple[list[str], type[BaseModel] | None]:
    """The path as the recipe's author writes it, and the class of the table that holds its last name.

    Pydantic puts the `kind` of a chosen table into the path too; that is left out.
    """
    path: list[str] = []
    holder: type[BaseModel] | None = None
    inside: type[BaseModel] | None = recipe
    choices: Mapping[str, type[BaseModel]] = {}
    for element in location:
        if isinstance(element, int) and path:
            path[-1] += f"[{element}]"
            continue
        if choices:
            inside, choices = choices.get(str(element)), {}
            continue
        holder, inside = inside, None
        path.append(str(element))
        field = holder.model_fields.get(str(element)) if holder is not None else None
        if field is not None:
            inside, choices = _table_of(field), _choices_of(field)
    return path or ["recipe"], holder


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The one table that stands there; also where it may be left out."""
    annotation = field.annotation
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    tables = [one for one in choices if isinstance(one, type) and issubclass(one, BaseModel)]
    return tables[0] if len(tables) == 1 else None


def _choices_of(field: FieldInfo) -> Mapping[str, type[BaseModel]]:
    tables = field.annotation
    if get_origin(tables) is tuple:  # a list of such tables: tuple[Annotated[A | B, Field(discriminator="kind")], ...]
        choice = get_args(tables)[0]
        marks = get_args(choice)[1:] if get_origin(choice) is Annotated else ()
        if not any(isinstance(mark, FieldInfo) and mark.discriminator for mark in marks):
            return {}
        tables = get_args(choice)[0]
    elif field.discriminator is None:
        return {}
    return {str(kind): table for table in get_args(tables) for kind in get_args(table.model_fields["kind"].annotation)}


def _kinds(table: type[BaseModel] | None, name: str) -> Mapping[str, type[BaseModel]]:
    return _choices_of(table.model_fields[name.partition("[")[0]]) if table is not None else {}


def _literals(table: type[BaseModel] | None, path: Sequence[str]) -> Iterator[object]:
    name = path[-1].partition("[")[0]
    waiting = [table.model_fields[name].annotation] if table is not None else []
    while waiting:
        annotation = waiting.pop()
        if get_origin(annotation) is Literal:
            yield from get_args(annotation)
        else:
            waiting.extend(get_args(annotation))


def _intention(path: Sequence[str], table: type[BaseModel] | None, recipe: type[BaseModel]) -> str:
    known = list(table.model_fields) if table is not None else []
    elsewhere = [place for place in _all_places(recipe) if place.rpartition(".")[2] == path[-1] and "." in place]
    if ".".join(path) in elsewhere:
        return f"it belongs to another kind; this one has {', '.join(known)}"
    if elsewhere:
        return f"did you mean `{elsewhere[0]}`?"
    ours = _CALLED_ELSEWHERE.get(path[-1].lower().replace("-", "_"))
    if ours is not None and ours in _all_places(recipe):
        return f"did you mean `{ours}`?"
    if (close := did_you_mean(path[-1], known)) is not None:
        return f"did you mean `{close}`?"
    where = f"[{'.'.join(path[:-1])}]" if path[:-1] else "the top level"
    return f"{where} has {', '.join(known)}"


def _all_places(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in table.model_fields.items():
        yield prefix + name
        inside = _table_of(field)
        for choice in (inside,) if inside is not None else dict.fromkeys(_choices_of(field).values()):
            yield from _all_places(choice, f"{prefix}{name}.")


def _meaning(table: type[BaseModel] | None, name: str) -> str:
    field = table.model_fields.get(name) if table is not None else None
    return f": {field.description}" if field is not None and field.description else ""


def _one_of(known: Sequence[str]) -> str:
    if not known:
        return "one of those in the documentation"
    quoted = [f'"{value}"' for value in known]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _hint(found: object, known: Sequence[str]) -> str:
    close = did_you_mean(found, known) if isinstance(found, str) else None
    return f'; did you mean "{close}"?' if close is not None else ""


def _written_out(found: object) -> str:
    """The number that "20k" or "5M" was meant as."""
    match = _COUNT.fullmatch(found.strip()) if isinstance(found, str) else None
    if match is None:
        return ""
    return f"; write {int(Decimal(match[1].replace('_', '')) * _THOUSANDS[match[2].lower()]):_}"


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
