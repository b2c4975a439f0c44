"""The models of a run side by side: scores with intervals, sizes, speeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import Masking, TokenCorpus
from potstill.evaluation import Measurement, ModelScores, Speed, compare, measure, scores_to_json, speed
from potstill.models import (
    Size,
    check_context,
    check_head,
    faster_dtype,
    head_of,
    load_model,
    load_tokenizer,
    on_this_device,
    size_of,
    task_of,
    this_device,
)
from potstill.runs.held_out import held_out_sample
from potstill.runs.worth import Worth
from potstill.teachers import LiveTeacher, shared_predictions

# In the order they are shown, with what they are called.
IN_WORDS: Mapping[str, str] = {
    "teacher": "teacher",
    "model": "model",
    "corrected_teacher": "corrected teacher",
    "untouched": "untouched student",
    "rounded": "untouched student, rounded to four bits",
    "hard_labels": "hard labels, same tokens",
    "hard_labels_same_time": "hard labels, same time",
    "smoothed_labels": "smoothed labels, as uncertain as the teacher",
    "distilled": "distilled",
    "first_look": "labels alone, for the gate, half as long",
    "second_look": "labels alone, for the gate",
}

OTHER_TOKENS = (
    "The teacher cuts the text into other tokens: scores a token, the agreement and the KL have no meaning beside it. Bits a byte "
    "have, over the same bytes for all."
)


@dataclass(frozen=True)
class RunScores:
    """Rows of scores in the order of IN_WORDS; sizes and speeds of those that have them; what the teacher was worth, if it can be said."""

    models: tuple[ModelScores, ...]
    sizes: Mapping[str, Size]
    speeds: Mapping[str, Speed]
    worth: Worth | None = None

    def to_json(self) -> dict[str, object]:
        """Plain dictionaries, as in scores.json."""
        return {
            "models": scores_to_json(self.models),
            "sizes": {name: asdict(size) for name, size in self.sizes.items()},
            "speeds": {name: asdict(found) for name, found in self.speeds.items()},
            "worth": None if self.worth is None else self.worth.to_json(),
        }


def scores_of(
    measurements: Mapping[str, Measurement],
    sizes: Mapping[str, Size],
    speeds: Mapping[str, Speed],
    worth: Worth | None = None,
) -> RunScores:
    """Scores, what each keeps of the teacher, and how the distilled student differs, from measurements by name."""
    rows = compare({name: measurements[name] for name in IN_WORDS if name in measurements})
    return RunScores(rows, sizes, speeds, worth)


def score_model(
    source: str,
    corpus: TokenCorpus,
    *,
    tokenizer: PreTrainedTokenizerBase,
    teacher_source: str | None,
    tokens: int,
    length: int,
) -> RunScores:
    """Measure the model at `source` on at most so many tokens of the corpus; beside a teacher, if one is named.

    `tokenizer` is the model's own. Raises VocabularyError when the teacher's says something else, and what loading,
    checking and measuring raise.
    """
    model = _loaded(source, length)
    sample = corpus if task_of(model) == "classes" else held_out_sample(corpus, tokens, length)
    dtype = faster_dtype(this_device())
    masking = Masking.of(tokenizer) if task_of(model) == "masked" else None
    rows = head_of(model).num_tokens
    if teacher_source is None:
        size = rows if task_of(model) == "classes" else min(rows, len(sample.token_bytes))
        found = {"model": measure(model, sample, length=length, size=size, dtype=dtype, masking=masking)}
        return scores_of(found, {"model": size_of(model)}, {"model": speed(model)})
    teacher = _loaded(teacher_source, length)
    marker = LiveTeacher(teacher, size=shared_predictions(teacher, model, load_tokenizer(teacher_source), tokenizer))
    found = measure_both(marker, model, sample, length=length, dtype=dtype, masking=masking)
    sizes = {"teacher": size_of(teacher), "model": size_of(model)}
    return scores_of(found, sizes, {"teacher": speed(teacher), "model": speed(model)})


def measure_both(
    teacher: LiveTeacher,
    model: PreTrainedModel,
    corpus: TokenCorpus,
    *,
    length: int,
    dtype: torch.dtype,
    masking: Masking | None = None,
) -> dict[str, Measurement]:
    """The teacher alone, and the model beside it, on the same text."""
    size = teacher.num_tokens
    return {
        "teacher": measure(teacher.model, corpus, length=length, size=size, dtype=dtype, masking=masking),
        "model": measure(model, corpus, length=length, teacher=teacher, size=size, dtype=dtype, masking=masking),
    }


def _loaded(source: str, length: int) -> PreTrainedModel:
    model = on_this_device(load_model(source))
    check_context(model, length)
    check_head(model)
    return model
