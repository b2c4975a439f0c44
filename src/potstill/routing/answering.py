"""Both models' answers to the queries, and what they are worth. Answers go through `writing`: a kill loses what was on its way."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import Judge
from potstill.errors import DataError, NotFiniteError
from potstill.models import check_context
from potstill.models.asking import device_of, evaluating
from potstill.routing.queries import Query, Scored, fingerprint_of_queries, judged, text_of
from potstill.routing.signals import TOP_LOGPROBS, Signals, listed_tokens, signals_of
from potstill.writing import Journal, LocalWriter, Prompt, Sample, Sampling, Written


@dataclass(frozen=True)
class ChoosingWriter:
    """Answers with the choice that the model finds likeliest, per byte of it (acc_norm of lm-evaluation-harness).

    What it lists of its answer is one token that stands for the choice: log-softmax over the choices of their log-probabilities per
    byte, so that margin and entropy are those between choices.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    choices: Mapping[str, tuple[str, ...]]

    def write(self, prompts: Sequence[Prompt], missing: Container[str]) -> Iterator[Written]:
        """The choice of each prompt that is missing, in order; none where prompt and choice are longer than the model's context."""
        check_context(self.model, 2)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        for prompt in (one for one in prompts if one.id in missing):
            choices = self.choices[prompt.id]
            rows, tails = self._rows(prompt, choices)
            if isinstance(limit, int) and max(map(len, rows)) > limit:
                yield Written(prompt.id, ())
                continue
            sizes = np.array([max(1, len(choice.encode())) for choice in choices])
            shares = torch.tensor(self._logprobs(rows, tails) / sizes).log_softmax(-1)
            if not shares.isfinite().all():
                raise NotFiniteError("the model's logits are NaN or infinite: its weights are damaged")
            best = int(shares.argmax())
            tops = [{"token": one, "logprob": share} for one, share in zip(choices, shares.tolist(), strict=True)]
            listed = ({"token": choices[best], "logprob": shares[best].item(), "top_logprobs": tops},)
            sample = Sample(choices[best], 1, is_cut=False, mean_logprob=shares[best].item(), listed=listed)
            yield Written(prompt.id, (sample,), prompt_tokens=sum(map(len, rows)))

    def _rows(self, prompt: Prompt, choices: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Prompt and choice as one text each, and how many tokens are the choice's; the space between them is the choice's."""
        reader = LocalWriter(self.model, self.tokenizer, Sampling(temperature=0.0))
        if not isinstance(prompt.sent, str):
            before = reader.tokens_of(prompt)
            answers = [list(self.tokenizer(one, add_special_tokens=False)["input_ids"]) for one in choices]
            return [[*before, *answer] for answer in answers], [len(answer) for answer in answers]
        bare = prompt.sent.rstrip()
        between = prompt.sent[len(bare) :] or (" " if bare else "")
        before = reader.tokens_of(_with(prompt, bare))
        rows = [reader.tokens_of(_with(prompt, bare + between + choice)) for choice in choices]
        if not self.tokenizer(bare)["input_ids"]:  # the first token is predicted from something too
            rows = [[*before, *row] for row in rows]
        return rows, [max(1, len(row) - len(before)) for row in rows]

    def _logprobs(self, rows: Sequence[Sequence[int]], tails: Sequence[int]) -> np.ndarray:
        """Of each row's last tokens, in nats. Padding stands last, where a causal model doesn't see it."""
        width, device = max(map(len, rows)), device_of(self.model)
        ids = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)
        with evaluating(self.model):
            log_p = self.model(ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        found = log_p.gather(-1, ids[:, 1:, None])[..., 0].double().cpu().numpy()
        return np.array(
            [
                found[at, len(row) - 1 - tail : len(row) - 1].sum()
                for at, (row, tail) in enumerate(zip(rows, tails, strict=True))
            ]
        )


def scored(queries: tuple[Query, ...], student: Journal, teacher: Journal, judge: Judge) -> Scored:
    """Answers against what is right or, where that is not known, the student's against the teacher's. All must be there.

    A prompt that was too long for a model is answered wrongly by it.
    """
    has_reference = queries[0].prompt.answer is not None
    scores, signals = [], []
    for query in queries:
        ours, theirs = (_answer(journal, query) for journal in (student, teacher))
        right = query.prompt.answer if has_reference else ("" if theirs is None else theirs.text)
        assert right is not None
        scores.append([_worth(answer, right, query, judge) for answer in (ours, theirs)])
        signals.append(_signals(ours, query))
        if not has_reference and theirs is not None:
            scores[-1][1] = 1.0  # right by definition, whatever a judge makes of its text
    found = np.array(scores, float)
    return Scored(
        found[:, 0],
        found[:, 1],
        tuple(signals),
        tuple(query.domain for query in queries),
        tuple(text_of(query.prompt) for query in queries),
        has_reference,
        TOP_LOGPROBS,
        fingerprint_of_queries(queries),
        tuple(query.prompt.key for query in queries),
    )


def _answer(journal: Journal, query: Query) -> Sample | None:
    samples = journal.read(query.prompt.id).samples
    return samples[0] if samples else None


def _worth(answer: Sample | None, right: str, query: Query, judge: Judge) -> float:
    if answer is None:
        return 0.0
    if query.choices:
        return float(answer.text == right)
    return judged(judge, text_of(query.prompt), right, answer.text, query.prompt.where)


def _signals(answer: Sample | None, query: Query) -> Signals:
    if answer is None or (answer.text == "" and not answer.listed):
        return signals_of(())
    if answer.listed is None:
        raise DataError(
            f"the server gave no log-probabilities for {query.prompt.where}: routing goes by them; use a server that gives them"
        )
    return signals_of(listed_tokens(answer.listed))


def _with(prompt: Prompt, text: str) -> Prompt:
    return Prompt(prompt.id, prompt.key, text, text, prompt.answer, prompt.where)
