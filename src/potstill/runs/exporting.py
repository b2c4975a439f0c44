"""A student written for an engine, read back, and measured as the engine computes it: good when it is near enough to the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import TokenCorpus
from potstill.engines import LlamaServer
from potstill.engines.reading import EngineTeacher, log_probabilities, speed_of, tokens_of
from potstill.errors import ModelError, RunDirectoryError
from potstill.evaluation import Measurement, Speed, measure, measure_teacher, retention, score, speed
from potstill.export.blocks import GgufKind
from potstill.export.folder import bytes_on_disk
from potstill.export.gguf_file import bytes_in, context_in, head_in, save_gguf, smaller_blocks_in, types_in
from potstill.export.int4 import Codes, save_packed
from potstill.export.padding import padding_of
from potstill.models import head_of, load_model, saved_whole
from potstill.teachers import LiveTeacher

Format = Literal["int4", "int8", "gguf", "huggingface"]
# KL(student ‖ export) in nats a prediction that numbers of so many bits may cost; of four bits, what --most-kl says.
MOST_KL: Mapping[str, float] = {
    "huggingface": 1e-4,
    "f16": 1e-3,
    "bf16": 2e-3,
    "int8": 1e-2,
    "q8_0": 1e-2,
    "q6_k": 3e-2,
}
# Tokens of the prompt whose reading is timed, and of the writing; beginnings that the engine itself is asked about; what a context has
# beyond the text.
_PROMPT, _NEW, _ENGINE_ROWS, _ROOM = 128, 32, 8, 64
_TRIED = (
    "The quick brown fox's 3 cubs didn't jump over 1,234.5 lazy dogs!  They'd  slept.",
    "def f(x):\n    return x ** 2  # été, naïve, 12°\n\n\n\tif True:\n        pass\n",
    "Größe 你好，世界 123 こんにちは مرحبا мир 🙂👍🏽 ½ ﬁ",
    " leading and trailing \r\n\r\n  'LL 'Ve I'M ... --- ___ <b>&amp;</b> \u00a0x",
)


@dataclass(frozen=True)
class Wanted:
    """An export.

    format  what reads it: int4 and int8 by transformers and vLLM, gguf by llama.cpp and its kin, huggingface by all of Python
    kind    of a GGUF file: the type of its matrices
    group   of int4 and int8: inputs that share a scale; the largest of 128, 64, 32, 16, 8 that fits when not given
    most_kl what it may differ from the student, in nats a prediction
    """

    format: Format
    kind: GgufKind = "q8_0"
    group: int | None = None
    most_kl: float = 0.1

    @property
    def name(self) -> str:
        """Of the format with its type, as folders and tables say it."""
        return self.kind if self.format == "gguf" else self.format


@dataclass(frozen=True)
class RunBar:
    """A bar of the run that made the student, and what the student itself reached of it."""

    text: str
    metric: str
    least: float
    absolute: bool
    value: float


@dataclass(frozen=True)
class Alone:
    """The student itself in torch: what every export of it is compared with."""

    measured: Measurement
    speed: Speed


@dataclass(frozen=True)
class Rescored:
    """An export as its engine computes it.

    student, export  measured on the same text, the export beside the student
    speeds           of the student in torch and of the export in its engine
    engine_kl        of GGUF: KL(student ‖ engine) by the engine's own probabilities at a few places; None elsewhere
    bytes            of the weights on disk by part
    types            of GGUF: how many tensors of each type
    smaller_blocks   of GGUF's types of blocks: matrices whose rows these don't divide, and the types that hold them
    padding          of GGUF: widths that the file has zeros beside, as `432 channels as 448`
    engine           what computed it
    """

    student: Measurement
    export: Measurement
    speeds: Mapping[str, Speed]
    engine_kl: float | None
    bytes: Mapping[str, int]
    types: Mapping[str, int]
    smaller_blocks: Mapping[str, str]
    padding: str
    engine: str


@dataclass(frozen=True)
class Judged:
    """Whether an export is good; if not, why."""

    good: bool
    why: str
    bars: tuple[tuple[str, float | None], ...]


def write_export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    wanted: Wanted,
    *,
    name: str,
    codes: Codes | None = None,
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write it; the GGUF file, or the folder itself. `codes`: of int4 and int8, where they are not the nearest. `beside`: further files,
    their text by name, which are there as soon as anything is.

    ModelError for what the format can't express, RunDirectoryError where it can't be written.
    """
    match wanted.format:
        case "gguf":
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for file, text in (beside or {}).items():
                    (folder / file).write_text(text, "utf-8")
            except OSError as error:
                raise RunDirectoryError(
                    f"can't make {folder}: {error.strerror or error}. Choose another folder (--out)"
                ) from error
            path = folder / f"{name}-{wanted.kind}.gguf"
            save_gguf(model, tokenizer, path, wanted.kind, name=name)
            return path
        case "huggingface":
            with saved_whole(folder, beside=beside) as written:
                model.save_pretrained(written)
                tokenizer.save_pretrained(written)
        case "int4" | "int8":
            save_packed(model, tokenizer, folder, wanted.group, bits=int(wanted.format[-1]), found=codes, beside=beside)
    return folder


def measure_alone(student: PreTrainedModel, corpus: TokenCorpus, *, length: int) -> Alone:
    """The student on the text that its exports are measured on, and its speed."""
    marker = LiveTeacher(student, size=_size(student, corpus))
    measured = measure(student, corpus, length=length, teacher=marker, size=marker.num_tokens)
    return Alone(measured, speed(student, prompt_tokens=_PROMPT))


def rescore(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: Path,
    wanted: Wanted,
    corpus: TokenCorpus,
    *,
    length: int,
    alone: Alone,
    threads: int | None = None,
) -> Rescored:
    """Load what was written in its engine and measure it beside the student. ModelError where the engine makes other tokens of text."""
    size = _size(student, corpus)
    marker = LiveTeacher(student, size=size)
    if wanted.format != "gguf":
        loaded = _loaded(weights)
        found = measure(loaded, corpus, length=length, teacher=marker, size=size)
        speeds = {"student": alone.speed, "export": speed(loaded, prompt_tokens=_PROMPT)}
        return Rescored(
            alone.measured, found, speeds, None, bytes_on_disk(weights, student), {}, {}, "", "transformers"
        )
    context = context_in(weights)
    if length > context:
        raise ModelError(f"{weights} has a context of {context} tokens: measure it with --length {context} at most")
    with LlamaServer(weights, context=length + _ROOM, threads=threads, embeddings=True) as server:
        check_tokens(server, tokenizer, [*_TRIED, *_texts_of(corpus, tokenizer)])
        head = head_in(weights, student, size)
        found = measure_teacher(EngineTeacher(server, head), corpus, length=length, teacher=marker)
        places = list(_places(corpus, min(length, context - 1)))
        engine_kl = float(np.mean([_kl(student, server, ids, size) for ids in places]))
    with LlamaServer(weights, context=2 * _PROMPT, threads=threads) as server:
        new_tokens = min(_NEW, max(1, context // 4))
        prompt = (places[-1] * _PROMPT)[: min(_PROMPT, context - new_tokens - 1)]
        speeds = {"student": alone.speed, "export": Speed(*speed_of(server, prompt, new_tokens=new_tokens))}
    odd, padding = smaller_blocks_in(weights, wanted.kind), padding_of(student, wanted.kind).words
    return Rescored(
        alone.measured, found, speeds, engine_kl, bytes_in(weights), types_in(weights), odd, padding, "llama.cpp"
    )


def _size(student: PreTrainedModel, corpus: TokenCorpus) -> int:
    """How many tokens get a probability."""
    return min(head_of(student).num_tokens, len(corpus.token_bytes))


def _loaded(folder: Path) -> PreTrainedModel:
    """The folder's model with weights that are numbers: packed ones become so in the first pass through the whole model."""
    model = load_model(folder)
    with torch.no_grad():
        model(torch.zeros(1, 1, dtype=torch.int64))
    return model


def check_tokens(server: LlamaServer, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """ModelError, with the first text that the engine cuts into other tokens than the tokenizer, plain or with its BOS and EOS."""
    for text in texts:
        for special in (False, True):
            ours = tokenizer(text, add_special_tokens=special)["input_ids"]
            theirs = tokens_of(server, text, special=special)
            if ours != theirs:
                place = next(
                    (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                    min(len(ours), len(theirs)),
                )
                raise ModelError(
                    f"llama.cpp cuts {text[:60]!r} into other tokens than this student's tokenizer: from token {place} on "
                    f"{tokenizer.convert_ids_to_tokens(ours[place : place + 4])} here and "
                    f"{tokenizer.convert_ids_to_tokens(theirs[place : place + 4])} there. Its rule for cutting isn't this tokenizer's, so "
                    "the file would run on wrong tokens: export as huggingface, int4 or int8"
                )


def judge_export(wanted: Wanted, found: Rescored, bars: tuple[RunBar, ...] = ()) -> Judged:
    """Whether it is near enough to the student, and clears the bars of the student's run where they can be carried over."""
    kl, most = score(found.export, "kl_to_teacher").value, MOST_KL.get(wanted.name, wanted.most_kl)
    if not kl <= most:
        return Judged(
            False, f"it differs from the student by {kl:.4f} nats a prediction, at most {most:g} are allowed", ()
        )
    # A few places of the engine's own words: three times as much is no accident.
    if found.engine_kl is not None and not found.engine_kl <= 3 * most:
        return Judged(
            False,
            f"llama.cpp's own probabilities differ by {found.engine_kl:.4f} nats, at most {most:g} are allowed",
            (),
        )
    judged = tuple((bar.text, _carried(bar, found)) for bar in bars)
    for bar, (text, value) in zip(bars, judged, strict=True):
        is_most = bar.metric == "bits" and bar.absolute
        if value is not None and (value > bar.least if is_most else value < bar.least):
            if bar.value > bar.least if is_most else bar.value < bar.least:
                why = f"the student itself misses its run's bar, {text}: it reaches {bar.value:.4g}, and this export {value:.4g}"
            else:
                why = f"it reaches {value:.4g} where the run's bar is {text}"
            return Judged(False, why, judged)
    return Judged(True, "", judged)


def _carried(bar: RunBar, found: Rescored) -> float | None:
    """What the export reaches of a bar: the student's own value, and what is lost of it here. None for what other text must show."""
    if bar.metric == "accuracy":
        return bar.value * retention(found.export, found.student, "accuracy").value
    if bar.metric == "bits" and bar.absolute:
        ours, theirs = (score(one, "bits_per_byte").value for one in (found.export, found.student))
        return bar.value + ours - theirs
    return None


def _texts_of(corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The beginnings of a few documents, as text. Tokens cut from the middle of a text may be others than the text's own; text isn't."""
    for document in range(min(4, len(corpus))):
        text = tokenizer.decode(corpus.document(document)[0][:200].tolist(), skip_special_tokens=True)
        yield str(text).replace("\ufffd", "")


def _places(corpus: TokenCorpus, length: int) -> Iterator[list[int]]:
    """A few beginnings of documents, of different lengths."""
    for number in range(_ENGINE_ROWS):
        ids = corpus.document(number % len(corpus))[0][:length]
        yield ids[: max(1, len(ids) * (number + 1) // _ENGINE_ROWS)].tolist()


def _kl(student: PreTrainedModel, server: LlamaServer, ids: list[int], size: int) -> float:
    with torch.no_grad():
        ours = student(torch.tensor([ids])).logits[0, -1, :size].double().log_softmax(-1).numpy()
    theirs = log_probabilities(server, ids, size)
    return float((np.exp(ours) * (ours - theirs)).sum())
