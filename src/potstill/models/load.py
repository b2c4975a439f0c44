"""A name becomes a model or a tokenizer: a folder, a run (its student), a name on the model hub, a GGUF file, or "pocket"."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from potstill.errors import MissingExtraError, ModelError, PotstillError
from potstill.models.save import check_as_saved
from potstill.models.tasks import task_of_name

# The word for the model that ships inside the package; a folder of that name goes before it.
POCKET = "pocket"
_POCKET_FOLDER = Path(__file__).parents[1] / "pocket"
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def load_model(source: str | Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A language model or text classifier from a folder, a hub name or a `.gguf` file (unpacked), in evaluation mode, on the CPU.

    What its config.json calls it decides: a causal or masked language model, or a classifier (`task_of`). The folder of a
    run stands for its student.

    Weights come from safetensors alone, and no code comes with them. Raises ModelError for a source that is missing,
    damaged, incomplete, pickled or no causal language model; MissingExtraError when a GGUF file needs the package `gguf`.
    """
    place = _find(source)
    if place.gguf_file is None:
        kind = _kind_of(place)
        if place.is_local:
            check_as_saved(Path(place.name), of_tokenizer=False)
        settings = {"use_safetensors": True, "ignore_mismatched_sizes": True}
    else:
        from transformers import GgufConfig

        kind = AutoModelForCausalLM
        settings = {"gguf_file": place.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    with _explained(place, "model"), _quiet(place):
        loaded = kind.from_pretrained(
            place.name, dtype=dtype, trust_remote_code=False, output_loading_info=True, **settings
        )
    model, report = cast(tuple[PreTrainedModel, dict[str, set]], loaded)
    _check_is_complete(place, report["missing_keys"], report["mismatched_keys"])
    return model


def load_shape(source: str | Path) -> PreTrainedModel:
    """The model without its weights, on the meta device: shapes and sizes in no time and no memory. Errors as load_model's,
    but that a folder needs no more than a config.json."""
    place = _find(source)
    kind = AutoModelForCausalLM if place.gguf_file is not None else _kind_of(place, needs_weights=False)
    settings = {} if place.gguf_file is None else {"gguf_file": place.gguf_file}
    with _explained(place, "model"), _quiet(place):
        config = AutoConfig.from_pretrained(place.name, trust_remote_code=False, **settings)
        with torch.device("meta"):
            return kind.from_config(config)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer, with its chat template, from a folder, a hub name or a `.gguf` file.

    Where it has no padding token, the end-of-text token pads; texts longer than the model's context are not warned about,
    because corpora are tokenised whole and cut afterwards. Raises ModelError for a source without a tokenizer.
    """
    place = _find(source)
    settings = {} if place.gguf_file is None else {"gguf_file": place.gguf_file}
    if place.is_local and place.gguf_file is None:
        check_as_saved(Path(place.name), of_tokenizer=True)
    with _explained(place, "tokenizer"), _quiet(place):
        tokenizer = AutoTokenizer.from_pretrained(place.name, trust_remote_code=False, **settings)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


@dataclass(frozen=True)
class _Place:
    """Where transformers is to look: a folder or a hub name, and the GGUF file in that folder if it is one."""

    name: str
    gguf_file: str | None = None
    is_local: bool = True

    def __str__(self) -> str:
        return self.name if self.gguf_file is None else str(Path(self.name, self.gguf_file))


def _find(source: str | Path) -> _Place:
    path = Path(source).expanduser()
    if str(source) == POCKET and not os.path.exists(path):
        path = _POCKET_FOLDER
    if os.path.isdir(path):
        return _Place(str(_student_of_run(path)))
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            raise ModelError(f"{path} is a file, but not a .gguf file: give the folder that holds config.json")
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError("gguf", extra="gguf", purpose=f"Reading {path}")
        return _Place(str(path.parent), path.name)
    if isinstance(source, str) and _HUB_NAME.fullmatch(source) and not source.endswith(".gguf"):
        # Before the hub is asked, which may not be there: its names have an owner in front, but for a few of old.
        if get_close_matches(source.lower(), [POCKET], cutoff=0.8):
            raise ModelError(
                f"there is no folder {source}: did you mean {POCKET}, the model that potstill brings along?"
            )
        return _Place(source, is_local=False)
    raise ModelError(f"there is no model at {source}: give a folder, a .gguf file or a name on the model hub")


def _student_of_run(folder: Path) -> Path:
    """Where the student lies, if this is the folder of a run; else the folder. ModelError for a run that has no student."""
    if (folder / "config.json").exists():
        return folder
    if (folder / "student" / "config.json").exists():
        return folder / "student"
    if not (folder / "recipe.toml").exists():
        return folder
    if stages := sorted(file.parent for file in folder.glob("stages/*/student/config.json")):
        raise ModelError(f"{folder} is a run of stages: give the student of one, {', '.join(map(str, stages))}")
    raise ModelError(
        f"{folder} is a run that has no student yet: finish it first (the same command goes on where it was)"
    )


def _kind_of(
    place: _Place, *, needs_weights: bool = True
) -> type[AutoModelForCausalLM | AutoModelForMaskedLM | AutoModelForSequenceClassification]:
    """Which of transformers' classes loads it. ModelError for what is neither a language model nor a text classifier."""
    if place.is_local:
        _check_folder(Path(place.name), needs_weights=needs_weights)
    with _explained(place, "model"), _quiet(place):
        config = AutoConfig.from_pretrained(place.name, trust_remote_code=False)
    names = config.architectures or []
    task = task_of_name(names[0]) if names else "causal"
    if config.get_text_config() is not config:
        raise ModelError(
            f"{place} reads more than text ({type(config).__name__} has a configuration of its own for it): use the text-only model "
            "of the family"
        )
    kind, known = {
        "causal": (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
        "masked": (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
        "classes": (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    }[task]
    is_bare = task == "causal" and type(config) in MODEL_FOR_MASKED_LM_MAPPING and not _says_causal(names)
    if type(config) not in known or config.is_encoder_decoder or is_bare:
        raise ModelError(
            f"{place} is neither a language model nor a text classifier, but {', '.join(names) or type(config).__name__}: "
            "use one that predicts the next token, a hidden token, or a class"
        )
    return kind


def _says_causal(names: list[str]) -> bool:
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _check_folder(folder: Path, *, needs_weights: bool) -> None:
    files = {file.name for file in folder.iterdir()}
    if "config.json" not in files:
        found = ", ".join(sorted(files)[:5]) or "nothing"
        raise ModelError(f"{folder} is no model: it has no config.json (found {found}); give the folder that has one")
    if needs_weights and not any(name.endswith(".safetensors") for name in files):
        if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in files):
            raise ModelError(
                f"{folder} holds pickled weights only, which can run code when they are read: load them once with "
                "transformers where you trust them and call save_pretrained, which writes safetensors"
            )
        raise ModelError(f"{folder} has a config.json, but no weights (*.safetensors): copy or download them again")


def _check_is_complete(place: _Place, missing: set[str], mismatched: set[tuple]) -> None:
    if mismatched:
        name, found, expected = min(mismatched)
        raise ModelError(
            f"the weights of {place} don't fit its config.json: {name} is {list(found)}, the config asks for "
            f"{list(expected)} ({len(mismatched)} such tensors); take both from one model"
        )
    if missing:
        raise ModelError(
            f"the weights of {place} are incomplete: {len(missing)} tensors are missing, {min(missing)} among them, "
            "and would be random; copy or download them again"
        )


@contextmanager
def _explained(place: _Place, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Only transformers runs here, and a damaged source makes it raise anything.
        if isinstance(error, PotstillError):
            raise
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise ModelError(
                f"the {what} in {place} needs more memory than there is, if its sizes are right: {error}"
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if place.is_local:
            raise ModelError(f"the {what} in {place} can't be loaded: {reason}") from error
        advice = (
            "check the spelling and the connection" if isinstance(error, OSError | ValueError) else "see what it says"
        )
        raise ModelError(
            f"there is no folder {place.name}, and the model hub gave no {what} of that name ({reason}): {advice}"
        ) from error


@contextmanager
def _quiet(place: _Place) -> Iterator[None]:
    """No notes from transformers while it loads: what matters in them is raised. Downloads keep their progress bars."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if place.is_local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
