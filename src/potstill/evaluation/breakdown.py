"""Where student and teacher part: by kind of prediction, and word for word; and what distilled models are known to lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data import TokenCorpus, ordered_batches
from potstill.models import Sampling, complete, hidden_states
from potstill.models.asking import device_of, evaluating

_CHUNK = 256
_POSITIONS = (8, 32, 128)
# Tokens by how often they stand in the text: bounds as shares of all of it.
_FREQUENCIES = ((1e-2, "1 in 100 or more"), (1e-3, "1 in 1,000 or more"), (1e-4, "1 in 10,000 or more"), (0.0, "rarer"))


@dataclass(frozen=True)
class Group:
    """Predictions of one kind: how many, and how often each is right and both agree."""

    by: str
    name: str
    count: int
    teacher: float
    student: float
    agree: float


@dataclass(frozen=True)
class Word:
    """One predicted token: the text's, each one's likeliest, and how sure each was of the text's."""

    text: str
    teacher: str
    student: str
    teacher_probability: float
    student_probability: float


@dataclass(frozen=True)
class Passage:
    """A stretch of held-out text, token by token."""

    document: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Breakdown:
    """Groups of predictions, and the passages on which the two differ most and least."""

    groups: tuple[Group, ...]
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Habits:
    """What a model copies, and whether it gets stuck.

    copying     of random tokens shown twice, the share predicted right the second time (Olsson et al. 2022, arXiv:2209.11895: induction)
    repetition  of what it writes greedily after held-out beginnings, the share of 4-token runs that it wrote before
    """

    copying: float
    repetition: float


def break_down(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    corpus: TokenCorpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    size: int,
    domains: Sequence[str] | None = None,
    passages: int = 3,
    passage_tokens: int = 120,
) -> Breakdown:
    """Read the corpus with both. `domains`: a name a document, for groups of their own."""
    found = _read(teacher, student, corpus, length, size)
    counts = np.bincount(corpus.ids, minlength=size) / max(1, len(corpus.ids))
    right, ours = found["teacher"] == found["target"], found["student"] == found["target"]
    agree = found["teacher"] == found["student"]
    groups: list[Group] = []

    def add(by: str, name: str, which: NDArray[np.bool_]) -> None:
        if which.any():
            shares = (float(one[which].mean()) for one in (right, ours, agree))
            groups.append(Group(by, name, int(which.sum()), *shares))

    add("the teacher is", "right", right)
    add("the teacher is", "wrong", ~right)
    share, above = counts[found["target"]], np.inf
    for least, name in _FREQUENCIES:
        add("the token is", name, (share >= least) & (share < above))
        above = least
    last = 0
    for bound in (*_POSITIONS, length):
        add("tokens before it", f"{last} to {bound - 1}", (found["place"] >= last) & (found["place"] < bound))
        last = bound
    if domains is not None:
        for domain in sorted(set(domains)):
            add("the document is in", domain, np.array([domains[d] == domain for d in found["document"]]))
    return Breakdown(tuple(groups), _passages(found, corpus, tokenizer, passages, passage_tokens))


def habits(
    model: PreTrainedModel, corpus: TokenCorpus, *, size: int, rows: int = 16, tokens: int = 32, written: int = 48
) -> Habits:
    """Show random tokens twice, and let it go on with beginnings of the text."""
    generator = torch.Generator().manual_seed(0)
    common = torch.from_numpy(np.flatnonzero(np.bincount(corpus.ids, minlength=size)[:size]))
    once = common[torch.randint(len(common), (rows, tokens), generator=generator)]
    with evaluating(model), torch.inference_mode():
        logits = model(torch.cat([once, once], 1).to(device_of(model))).logits[:, tokens:-1, :size]
        copying = float((logits.argmax(-1).cpu() == once[:, 1:]).float().mean())
    begins = [corpus.document(d)[0][:tokens].astype(np.int64) for d in range(len(corpus))]
    begins = [one for one in begins if len(one) == tokens][:rows]
    if not begins:
        return Habits(copying, float("nan"))
    nothing_drawn = np.zeros((len(begins), written), np.float32)
    text = complete(model, begins, nothing_drawn, sampling=Sampling(temperature=0.0), ends=(), size=size, rows=rows)
    return Habits(copying, float(np.mean([_repeated(one.tolist()) for one in text])))


def _repeated(ids: Sequence[int], run: int = 4) -> float:
    runs = [tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)]
    return 1 - len(set(runs)) / max(1, len(runs))


def _read(
    teacher: PreTrainedModel, student: PreTrainedModel, corpus: TokenCorpus, length: int, size: int
) -> Mapping[str, NDArray]:
    """Arrays over all counted predictions."""
    lists: dict[str, list[NDArray]] = {}
    with evaluating(teacher), evaluating(student), torch.inference_mode():
        for batch in ordered_batches(corpus, length=length, rows=8):
            batch = batch.to(device_of(student))
            targets = batch.targets[batch.counted]
            found = {
                "target": targets,
                "document": batch.documents[batch.counted],
                "place": batch.positions[batch.counted],
            }
            for name, model in (("teacher", teacher), ("student", student)):
                states = hidden_states(model, batch, size=size)
                guesses, chances = [], []
                for start in range(0, len(targets), _CHUNK):
                    log_q = states.head.logits(states.rows[start : start + _CHUNK]).log_softmax(-1)
                    guesses.append(log_q.argmax(-1))
                    chances.append(log_q.gather(-1, targets[start : start + _CHUNK, None]).squeeze(-1).exp())
                found[name], found[f"{name}_probability"] = torch.cat(guesses), torch.cat(chances)
            for name, values in found.items():
                lists.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(values) for name, values in lists.items()}


def _passages(
    found: Mapping[str, NDArray], corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase, wanted: int, tokens: int
) -> tuple[Passage, ...]:
    """The first stretches of the documents that agree least, middling and most."""

    def said(token: int) -> str:
        return str(tokenizer.decode([token]))

    documents = [d for d in range(len(corpus)) if (found["document"] == d).sum() >= min(tokens, 40)]
    if not documents:
        return ()
    agree = found["teacher"] == found["student"]
    order = sorted(documents, key=lambda d: agree[found["document"] == d][:tokens].mean())
    places = np.unique(np.linspace(0, len(order) - 1, min(wanted, len(order))).astype(int))
    passages = []
    for document in (order[place] for place in places):
        rows = np.flatnonzero(found["document"] == document)[:tokens]
        words = tuple(
            Word(
                said(int(found["target"][row])),
                said(int(found["teacher"][row])),
                said(int(found["student"][row])),
                float(found["teacher_probability"][row]),
                float(found["student_probability"][row]),
            )
            for row in rows
        )
        passages.append(Passage(corpus.keys[document], words))
    return tuple(passages)
