"""A model on this machine writes: batched, padded on the left, with a key-value cache (transformers' `generate`)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.errors import DataError, ModelError
from potstill.models import check_context, ends_of
from potstill.models.asking import device_of, evaluating, whole_rows_at_heads
from potstill.writing.drawing import Drawing, key_of
from potstill.writing.prompts import Prompt
from potstill.writing.samples import Listed, Sample, Sampling, Written


@dataclass(frozen=True)
class LocalWriter:
    """A causal language model and its tokenizer; `rows` samples are written at a time, those of prompts of like length together.

    With `top_logprobs`, each sample lists its tokens, the end of text left out, and so many of the likeliest in their places.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    rows: int = 16
    top_logprobs: int = 0

    def write(self, prompts: Sequence[Prompt], missing: Container[str]) -> Iterator[Written]:
        """What is written for each prompt that is missing, short prompts first. Which tokens are drawn does not depend on the others; the
        last bits of a likelihood may, so prompts stand beside the same ones whatever is missing."""
        too_long, fitting, ids = self._by_length(prompts)
        yield from (Written(one.id, ()) for one in too_long if one.id in missing)
        waiting = [(prompt, number) for prompt in fitting for number in range(self.sampling.best_of)]
        samples: list[Sample] = []
        for start in range(0, len(waiting), self.rows):
            some = waiting[start : start + self.rows]
            if not any(prompt.id in missing for prompt, _ in some):
                samples = []
                continue
            with evaluating(self.model), torch.inference_mode():
                found = self._samples([ids[prompt.id] for prompt, _ in some], [key_of(p.id, n) for p, n in some])
            for (prompt, number), sample in zip(some, found, strict=True):
                samples.append(sample)
                if number == self.sampling.best_of - 1:
                    read = len(ids[prompt.id]) * len(samples)
                    if prompt.id in missing:
                        yield Written(prompt.id, tuple(samples), prompt_tokens=read)
                    samples = []

    def parts(self, prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
        """All prompts, divided where `rows` samples end with a prompt: part by part, the same are written beside one another."""
        too_long, fitting, _ = self._by_length(prompts)
        if too_long:
            yield too_long
        size = lcm(self.rows, self.sampling.best_of) // self.sampling.best_of
        yield from (fitting[start : start + size] for start in range(0, len(fitting), size))

    def tokens_of(self, prompt: Prompt) -> list[int]:
        """What the model reads; at least one token. DataError for a conversation where there is no chat template."""
        if isinstance(prompt.sent, str):
            ids = list(self.tokenizer(prompt.sent)["input_ids"])
            while len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:  # some tokenizers end every text
                ids.pop()
        elif self.tokenizer.chat_template is None:
            raise DataError(
                f"{prompt.where} is a conversation, and the tokenizer has no chat template: set prompts.chat = false"
            )
        else:
            turns = [dict(turn) for turn in prompt.sent]
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        begin = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        return ids or [begin if isinstance(begin, int) else 0]

    def _by_length(self, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[Prompt], dict[str, list[int]]]:
        """(those without room in the model's context, the others with short ones first, the tokens of all)."""
        room = self._room()
        ids = {prompt.id: self.tokens_of(prompt) for prompt in prompts}
        fitting = sorted((prompt for prompt in prompts if len(ids[prompt.id]) <= room), key=lambda p: len(ids[p.id]))
        return [prompt for prompt in prompts if len(ids[prompt.id]) > room], fitting, ids

    def _room(self) -> int:
        """The longest prompt, in tokens."""
        check_context(self.model, self.sampling.max_new_tokens + 1)
        context = getattr(self.model.config, "max_position_embeddings", None)
        return (context if isinstance(context, int) else 2**31) - self.sampling.max_new_tokens

    def _samples(self, prompts: Sequence[Sequence[int]], keys: Sequence[int]) -> list[Sample]:
        width, device = max(map(len, prompts)), device_of(self.model)
        pad = self.tokenizer.pad_token_id if isinstance(self.tokenizer.pad_token_id, int) else 0
        inputs = torch.tensor([[pad] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        drawing = Drawing(self.sampling, np.array(keys, dtype=np.uint64), width, likeliest=self.top_logprobs)
        generate: Callable[..., Tensor] = self.model.generate  # type: ignore[assignment]
        with whole_rows_at_heads(self.model):
            out = generate(
                inputs,
                attention_mask=mask,
                logits_processor=[drawing],
                generation_config=_configuration(self.sampling, pad, self._ends()),
                tokenizer=self.tokenizer if self.sampling.stop else None,
            )
        logprobs = torch.stack(drawing.logprobs, dim=1).double().cpu()
        samples = []
        for row, (ids, new) in enumerate(zip(prompts, out[:, width:].tolist(), strict=True)):
            sample = self._sample(list(ids), new, logprobs[row])
            listed = self._listed(new[: sample.tokens], row, drawing) if self.top_logprobs else None
            samples.append(replace(sample, listed=listed))
        return samples

    def _listed(self, new: list[int], row: int, drawing: Drawing) -> tuple[Listed, ...]:
        """As a server lists them."""
        ends = set(self._ends())
        return tuple(
            {
                "token": self._text([token]),
                "logprob": drawing.logprobs[place][row].item(),
                "top_logprobs": [
                    {"token": self._text([other]), "logprob": logprob}
                    for logprob, other in zip(*(one[row].tolist() for one in drawing.tops[place]), strict=True)
                ],
            }
            for place, token in enumerate(new)
            if token not in ends
        )

    def _sample(self, prompt: list[int], new: list[int], logprobs: Tensor) -> Sample:
        ends = set(self._ends())
        size = next((place + 1 for place, token in enumerate(new) if token in ends), len(new))
        has_ended = size > 0 and new[size - 1] in ends
        text, before = self._text(prompt + new[: size - has_ended]), self._text(prompt)
        text = text[len(before) :] if text.startswith(before) else self._text(new[:size])
        stops = [at for stop in self.sampling.stop if (at := text.find(stop)) >= 0]
        if stops:
            text = text[: min(stops)]
            size = self._size_until(new[:size], prompt, len(before) + min(stops))
        mean = logprobs[:size].mean().item()
        return Sample(text, size, is_cut=not has_ended and not stops, mean_logprob=mean)

    def _size_until(self, new: list[int], prompt: list[int], characters: int) -> int:
        """How many tokens reach beyond so many characters: what follows a stop was written for the sake of other rows."""
        sizes = range(1, len(new))
        at = bisect_right(sizes, characters, key=lambda size: len(self._text(prompt + new[:size])))
        return sizes[at] if at < len(sizes) else len(new)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _ends(self) -> list[int]:
        ends = list(ends_of(self.model, self.tokenizer))
        if not ends:
            raise ModelError("the writer has no end-of-text token: its tokenizer and its generation_config name none")
        return ends


def _configuration(sampling: Sampling, pad: int, ends: list[int]) -> GenerationConfig:
    """Nothing of the model's own settings for sampling: all of that is Drawing's."""
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        stop_strings=list(sampling.stop) or None,
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=pad,
        eos_token_id=ends,
    )
