"""What one soft label tells beyond one hard one, in closed form: bits, and how many hard labels give as good a gradient.

All are of the teacher's probabilities p at temperature 1, of a text whose next tokens are y, with q for the student's.

entropy    H(p): the bits that one sampled label hides. They are worth something as far as the teacher is calibrated:
gap        E[-log p(y)] - H(p), 0 for a calibrated teacher; what is above 0 was invented
noise      1 - Σ p²: a hard label y ~ p has the logit gradient q - e_y, whose mean is the soft label's, q - p, and whose covariance has
           this trace. It is what a soft label takes out of the gradient
distance   Σ (q - p)²: the squared length of that gradient
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from potstill.data import Masking, TokenCorpus
from potstill.evaluation.measuring import batches_in_order, written_whole
from potstill.evaluation.scores import interval_of, resampled, summed, units_of
from potstill.losses.support import logits_of, over_students_tokens
from potstill.models import hidden_states, task_of
from potstill.models.asking import device_of, evaluating
from potstill.types import Batch, DenseTargets, Score, Teacher

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class LabelInformation:
    """Sums over the counted predictions of each document, in float64 [documents]; in nats. `distance` is NaN without a student."""

    tokens: Sums
    entropy: Sums
    nll: Sums
    noise: Sums
    distance: Sums

    def score(self, name: str) -> Score:
        """Of `entropy_bits`, `nll_bits`, `gap_bits` or `noise`, a prediction, with its bootstrap interval over documents."""
        above = {
            "entropy_bits": self.entropy / np.log(2),
            "nll_bits": self.nll / np.log(2),
            "gap_bits": (self.nll - self.entropy) / np.log(2),
            "noise": self.noise,
        }[name]
        return self._ratio(name, above, self.tokens)

    def equivalents(self, error: float = 0.1) -> Score:
        """How many hard labels, drawn from the teacher at each prediction, give a gradient of this relative error:
        Σ (1 - Σ p²) / (error² · Σ (q - p)²). It grows as the student comes near its teacher, so soft labels pay late."""
        return self._ratio("equivalents", self.noise, error**2 * self.distance)

    def _ratio(self, name: str, above: Sums, below: Sums) -> Score:
        unit = units_of(self.tokens)
        draws = resampled(int(unit.max()) + 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (draws @ summed(above, unit)) / (draws @ summed(below, unit))
        return interval_of(name, ratios, int(np.count_nonzero(self.tokens)))

    def save(self, path: Path) -> None:
        """Write the arrays as .npz, whole or not at all; RunDirectoryError when the file can't be written."""
        with written_whole(path) as part:
            np.savez(part, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> LabelInformation:
        """What was saved."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def label_information(
    teacher: Teacher,
    corpus: TokenCorpus,
    *,
    like: PreTrainedModel,
    student: PreTrainedModel | None = None,
    length: int,
    rows: int = 16,
    dtype: torch.dtype = torch.float32,
    masking: Masking | None = None,
) -> LabelInformation:
    """Ask a teacher about a corpus in contexts of `length` tokens, as models of the kind of `like` read it; beside a student if there is
    one. LossError where the teacher's labels are not whole distributions."""
    sums = {name: np.zeros(len(corpus)) for name in ("tokens", "entropy", "nll", "noise", "distance")}
    device = device_of(like)
    with (
        evaluating(student or like),
        torch.no_grad(),
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
    ):
        for batch in batches_in_order(task_of(like), corpus, length, rows, masking):
            batch = batch.to(device)
            documents = batch.documents[batch.counted].cpu().numpy()
            for name, values in _figures(teacher, student, batch).items():
                np.add.at(sums[name], documents, values.double().cpu().numpy())
    if student is None:
        sums["distance"] = np.full(len(corpus), np.nan)
    return LabelInformation(**sums)


def _figures(
    teacher: Teacher, student: PreTrainedModel | None, batch: Batch
) -> dict[str, Float[Tensor, " predictions"]]:
    """Of each counted prediction of the batch."""
    tokens = batch.targets[batch.counted]
    found: dict[str, list[Tensor]] = {}
    theirs = logits_of(over_students_tokens(teacher.label(batch)), 1.0)
    ours = None
    if student is not None:
        states = hidden_states(student, batch, size=teacher.num_tokens)
        ours = logits_of(DenseTargets(states.rows, states.head), 1.0)
    place = 0
    for logits in theirs:
        here = tokens[place : place + len(logits)]
        place += len(logits)
        q = None if ours is None else next(ours).softmax(-1)
        for name, values in label_figures(logits.softmax(-1), here, q).items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in found.items()}


def label_figures(
    p: Float[Tensor, "rows tokens"], tokens: Int[Tensor, " rows"], q: Float[Tensor, "rows tokens"] | None = None
) -> dict[str, Float[Tensor, " rows"]]:
    """Each row's entropy, surprise, noise, and with a student's probabilities its distance; in nats."""
    true = p.gather(-1, tokens[:, None]).squeeze(-1)
    figures = {
        "tokens": torch.ones_like(true),
        "entropy": torch.special.entr(p).sum(-1),
        "nll": -true.clamp_min(torch.finfo(p.dtype).tiny).log(),
        "noise": 1 - p.square().sum(-1),
    }
    return figures if q is None else figures | {"distance": (q.to(p) - p).square().sum(-1)}
