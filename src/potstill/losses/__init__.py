"""How far is the student from the teacher?

In: the student's `HiddenStates`, what a teacher said (`SoftTargets`), the true next tokens, and a weight for each
prediction. Out: a `Loss`, which is a sum.

    measure = SoftLabelLoss(ForwardKL(), temperature=2.0, alpha=0.9)
    loss = linear_loss(student_states, teacher.label(batch), tokens, weights, measure)
    (loss.total / loss.weight).backward()

support.py      teacher and student over the same events, dense or sparse: the one place that knows the kinds of targets
mixing.py       several teachers as one distribution: the mean of probabilities or of logits, unions of listed tokens
divergences.py  the formulas, two to six lines each, over (log p, log q)
soft.py         temperature and the mixture with hard labels:  L = α·T²·D(p_T ‖ q_T) + (1-α)·CE(y, q)
hidden.py       distances between what layers put out:  γ · (1 - cos), γ · MSE, γ · (1 - CKA)
projection.py   from the student's width to the teacher's
attention.py    distances between attention maps (TinyBERT), between relations (MiniLM)
relations.py    how positions stand to each other, a chunk at a time
features.py     FeatureLoss: these terms together, and their balance
translated.py   across tokenizers: sorted probabilities, likelihoods of spans, tokens that both have
linear.py       from hidden states to the loss and its gradient, one chunk of logits at a time
engine.py       chunk by chunk the matmuls, block by block the row mathematics
by_hand.py      one block: head, temperature and both terms around the formulas of fused.py; the same through torch.compile
fused.py        gradients derived by hand and worked out in place: forward and reverse KL, Jensen-Shannon, sparse targets
workspace.py    memory that is used again
"""

from potstill.losses.attention import AttentionMapLoss, AttentionRelationLoss
from potstill.losses.divergences import (
    DIVERGENCES,
    AlphaBeta,
    Divergence,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    TotalVariation,
)
from potstill.losses.features import FeatureLoss, FeatureTerm
from potstill.losses.hidden import HiddenLoss
from potstill.losses.linear import Measure, gradient_shares, linear_loss
from potstill.losses.projection import Projection
from potstill.losses.soft import HARD_LABELS, SoftLabelLoss
from potstill.losses.support import shared_events
from potstill.losses.translated import MatchedTokens, SortedProbabilities, SpanLikelihood, TranslatedLoss
from potstill.losses.workspace import Workspace

__all__ = [
    "DIVERGENCES",
    "HARD_LABELS",
    "AlphaBeta",
    "AttentionMapLoss",
    "AttentionRelationLoss",
    "Divergence",
    "FeatureLoss",
    "FeatureTerm",
    "ForwardKL",
    "HiddenLoss",
    "JensenShannon",
    "MatchedTokens",
    "Measure",
    "Projection",
    "ReverseKL",
    "SkewForwardKL",
    "SkewReverseKL",
    "SoftLabelLoss",
    "SortedProbabilities",
    "SpanLikelihood",
    "TotalVariation",
    "TranslatedLoss",
    "Workspace",
    "gradient_shares",
    "linear_loss",
    "shared_events",
]
