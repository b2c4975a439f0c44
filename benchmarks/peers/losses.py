"""Each library's public loss functions in one shape: a Problem and a temperature in, the loss in that library's own scale out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from potstill.losses import ForwardKL, JensenShannon, ReverseKL, SoftLabelLoss, linear_loss
from potstill.types import DenseTargets, Head, HiddenStates, SparseTargets

IGNORED = -100
# Not one half: a β on the wrong side shows.
BETA = 0.3
Form = Literal["forward KL", "reverse KL", "JSD", "JSD ½", "forward + reverse KL"]


@dataclass(frozen=True)
class Problem:
    """Hidden states and heads of both; a label of -100 is a prediction that does not count (prompt, padding)."""

    rows: Tensor
    weight: Tensor
    teacher_rows: Tensor
    teacher_weight: Tensor
    labels: Tensor
    bias: Tensor | None = None  # of the teacher's head

    @property
    def z(self) -> Tensor:
        return self.rows @ self.weight.T

    @property
    def t(self) -> Tensor:
        logits = self.teacher_rows @ self.teacher_weight.T
        return logits if self.bias is None else logits + self.bias

    @property
    def counted(self) -> Tensor:
        return self.labels != IGNORED

    def to(self, dtype: torch.dtype) -> Problem:
        made = [
            tensor.detach().to(dtype) for tensor in (self.rows, self.weight, self.teacher_rows, self.teacher_weight)
        ]
        bias = None if self.bias is None else self.bias.to(dtype)
        return Problem(made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3], self.labels, bias)

    def of(self, lines: slice) -> Problem:
        """Some of the sequences; the heads are shared, so gradients of the heads add up."""
        rows = self.rows.detach()[lines].requires_grad_()
        return replace(self, rows=rows, teacher_rows=self.teacher_rows[lines], labels=self.labels[lines])


Call = Callable[[Problem, float], Tensor]


@dataclass(frozen=True)
class Contender:
    """A function, what its documentation says of its scale, and how to call it.

    has_temperature  T is an argument; has_square: and T² multiplies value and gradient
    mean             over the counted predictions; otherwise a sum
    split            the same as a sum over parts, given the count of the whole; None: the caller has to weigh the parts
    masks            it takes labels, weights or a mask; otherwise its caller does what depends on them
    fused            from hidden states, not logits
    factor           on the textbook value
    entropy          the value has the teacher's entropy in it
    """

    peer: str
    package: str
    function: str
    form: Form
    call: Call
    has_temperature: bool = True
    has_square: bool = False
    mean: bool = True
    split: Callable[[Problem, int], Tensor] | None = None
    masks: bool = True
    fused: bool = False
    factor: float = 1.0
    entropy: bool = False
    scale: str = ""


def all_contenders() -> tuple[list[Contender], dict[str, str]]:
    """Those that are installed, and why the others are not here."""
    found, missing = [], {}
    for make in (ours, trl, trl_sdft, torchtune, liger, distillkit, modelopt, torchdistill, by_hand):
        try:
            found += make()
        except (ImportError, PackageNotFoundError, AttributeError) as error:
            missing[make.__name__] = f"{type(error).__name__}: {error}"
    return found, missing


def versions(contenders: list[Contender]) -> dict[str, str]:
    return {one.peer: version(one.package) for one in contenders}


def ours() -> list[Contender]:
    def call(divergence: object, problem: Problem, temperature: float) -> Tensor:
        states = HiddenStates(problem.rows.flatten(0, 1), Head(problem.weight))
        targets = DenseTargets(problem.teacher_rows.flatten(0, 1), Head(problem.teacher_weight, problem.bias))
        weights = problem.counted.flatten().to(torch.float32)
        tokens = problem.labels.flatten().clamp_min(0)
        return linear_loss(states, targets, tokens, weights, SoftLabelLoss(divergence, temperature)).total

    kinds: dict[Form, tuple[object, float]] = {
        "forward KL": (ForwardKL(), 1.0),
        "reverse KL": (ReverseKL(), 1.0),
        "JSD": (JensenShannon(BETA), 1 / (BETA * (1 - BETA))),
    }
    return [
        Contender(
            "potstill",
            "potstill",
            f"linear_loss, {type(divergence).__name__}",
            form,
            partial(call, divergence),
            has_square=True,
            mean=False,
            split=lambda problem, count, divergence=divergence: call(divergence, problem, 1.0) / count,
            fused=True,
            factor=factor,
            scale="sum, T²" + (", JSD ÷ β(1-β)" if form == "JSD" else ""),
        )
        for form, (divergence, factor) in kinds.items()
    ]


def trl() -> list[Contender]:
    from trl.experimental.gkd import GKDTrainer
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def gkd(beta: float, problem: Problem, temperature: float, **more: object) -> Tensor:
        return GKDTrainer.generalized_jsd_loss(
            problem.z, problem.t, labels=problem.labels, beta=beta, temperature=temperature, **more
        )

    def chunked(beta: float, problem: Problem, temperature: float) -> Tensor:
        # What DistillationTrainer's loss is made of; it masks and divides outside, as here.
        per_token, _ = ChunkedDivergenceFunction.apply(
            problem.rows.flatten(0, 1),
            problem.weight,
            None,
            problem.teacher_rows.flatten(0, 1),
            problem.teacher_weight,
            problem.bias,
            beta,
            temperature,
        )
        return per_token[problem.counted.flatten()].sum()

    betas: dict[Form, float] = {"forward KL": 0.0, "reverse KL": 1.0, "JSD": BETA}
    made = []
    for form, beta in betas.items():
        split = lambda problem, count, beta=beta: gkd(beta, problem, 1.0, num_items_in_batch=count)  # noqa: E731
        name = f"GKDTrainer.generalized_jsd_loss, β = {beta:g}"
        made.append(Contender("TRL", "trl", name, form, partial(gkd, beta), split=split, scale="mean, no T²"))
        name = f"ChunkedDivergenceFunction, β = {beta:g}"
        made.append(
            Contender(
                "TRL",
                "trl",
                name,
                form,
                partial(chunked, beta),
                mean=False,
                masks=False,
                fused=True,
                scale="a row, no T²",
            )
        )
    return made


def trl_sdft() -> list[Contender]:
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss as full

    def call(alpha: float, problem: Problem, temperature: float) -> Tensor:
        return full(problem.z, problem.t, distillation_alpha=alpha)[problem.counted].sum()

    alphas: dict[Form, float] = {"forward KL": 0.0, "reverse KL": 1.0, "JSD": BETA}
    return [
        Contender(
            "TRL",
            "trl",
            f"sdft.compute_full_logit_…_loss, α = {alpha:g}",
            form,
            partial(call, alpha),
            has_temperature=False,
            mean=False,
            masks=False,
            scale="a row",
        )
        for form, alpha in alphas.items()
    ]


def torchtune() -> list[Contender]:
    losses = import_module("torchtune.modules.loss")

    def plain(measure: Callable[..., Tensor], problem: Problem, temperature: float, **more: bool) -> Tensor:
        flat = [tensor.flatten(0, 1) for tensor in (problem.z, problem.t)]
        return measure(*flat, problem.labels.flatten(), **more)

    def chunked(measure: Callable[..., Tensor], problem: Problem, temperature: float) -> Tensor:
        z, t = (list(tensor.chunk(8, dim=1)) for tensor in (problem.z, problem.t))
        return measure(z, t, problem.labels)

    forms: dict[str, tuple[Form, bool]] = {
        "ForwardKL": ("forward KL", True),
        "ReverseKL": ("reverse KL", False),
        "SymmetricKL": ("forward + reverse KL", True),
    }
    made = []
    for name, (form, entropy) in forms.items():
        settings = {"sym_kd_ratio": BETA} if name == "SymmetricKL" else {}
        measure = getattr(losses, f"{name}Loss")(**settings)
        in_parts = getattr(losses, f"{name}WithChunkedOutputLoss")(**settings)
        split = lambda problem, count, measure=measure: plain(measure, problem, 1.0, normalize=False) / count  # noqa: E731
        share = {"entropy": entropy, "factor": 1.0, "has_temperature": False, "scale": "mean, no T"}
        made.append(
            Contender("torchtune", "torchtune", f"{name}Loss", form, partial(plain, measure), split=split, **share)
        )
        name = f"{name}WithChunkedOutputLoss"
        made.append(Contender("torchtune", "torchtune", name, form, partial(chunked, in_parts), **share))
    return made


def liger() -> list[Contender]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    def call(beta: float, problem: Problem, temperature: float) -> Tensor:
        measure = LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, temperature=temperature, compiled=False
        )
        return measure(
            problem.rows.flatten(0, 1),
            problem.weight,
            problem.teacher_rows.flatten(0, 1),
            problem.teacher_weight,
            problem.labels.flatten(),
            None,
            problem.bias,
        )

    betas: dict[Form, float] = {"forward KL": 0.0, "reverse KL": 1.0, "JSD": BETA}
    return [
        Contender(
            "Liger",
            "liger-kernel",
            f"LigerFusedLinearJSDLoss, β = {beta:g}",
            form,
            partial(call, beta),
            fused=True,
            scale="mean, no T²",
        )
        for form, beta in betas.items()
    ]


def distillkit() -> list[Contender]:
    from distillkit.lossfuncs import JSDLoss, KLDLoss
    from distillkit.signals import DenseSignal

    def call(kind: type, problem: Problem, temperature: float, count: int | None = None) -> Tensor:
        signal = DenseSignal(
            generation_temperature=1.0, hidden_states=None, vocab_size=len(problem.weight), logits=problem.t
        )
        outputs = SimpleNamespace(logits=problem.z)
        return kind(temperature=temperature)(
            outputs, signal, mask=problem.counted.unsqueeze(-1), num_items_in_batch=count
        )

    kinds: dict[Form, type] = {"forward KL": KLDLoss, "JSD ½": JSDLoss}
    return [
        Contender(
            "DistillKit",
            "distillkit",
            f"{kind.__name__}, dense",
            form,
            partial(call, kind),
            has_square=True,
            split=lambda problem, count, kind=kind: call(kind, problem, 1.0, count),
            scale="mean, T²",
        )
        for form, kind in kinds.items()
    ]


def modelopt() -> list[Contender]:
    from modelopt.torch.distill import LogitsDistillationLoss

    def call(problem: Problem, temperature: float) -> Tensor:
        measure = LogitsDistillationLoss(temperature=temperature, reduction="none")
        return measure(problem.z, problem.t)[problem.counted].sum()

    return [
        Contender(
            "Model-Optimizer",
            "nvidia-modelopt",
            "LogitsDistillationLoss, reduction none",
            "forward KL",
            call,
            has_square=True,
            mean=False,
            masks=False,
            scale="a row, T²",
        )
    ]


def torchdistill() -> list[Contender]:
    from torchdistill.losses.mid_level import KDLoss

    def call(problem: Problem, temperature: float) -> Tensor:
        # A classifier's loss: a row is an example. α small rather than 0: at 0 it leaves T² out.
        measure = KDLoss("x", "y", "x", "y", temperature=temperature, alpha=0.25)
        z, t = problem.z[problem.counted], problem.t[problem.counted]
        hard = 0.25 * F.cross_entropy(z, problem.labels[problem.counted])
        return (measure({"x": {"y": z}}, {"x": {"y": t}}, problem.labels[problem.counted]) - hard) / 0.75

    return [
        Contender(
            "torchdistill",
            "torchdistill",
            "KDLoss, less its hard labels",
            "forward KL",
            call,
            has_square=True,
            masks=False,
            scale="mean, T²",
        )
    ]


def by_hand() -> list[Contender]:
    def call(problem: Problem, temperature: float) -> Tensor:
        z, t = ((logits[problem.counted] / temperature).log_softmax(-1) for logits in (problem.z, problem.t))
        return F.kl_div(z, t, reduction="sum", log_target=True)

    return [
        Contender(
            "PyTorch",
            "torch",
            "F.kl_div of log_softmax, log_target",
            "forward KL",
            call,
            mean=False,
            masks=False,
            scale="sum, no T²",
        )
    ]


@dataclass(frozen=True)
class TopK:
    """A loss on the teacher's k most likely tokens: what of the rest, and how to call it with logits [rows, tokens]."""

    peer: str
    function: str
    rest: Literal["one event", "teacher renormalised", "both renormalised", "sampled"]
    call: Callable[[Tensor, Tensor, int], Tensor]


def all_top_k() -> list[TopK]:
    found = [TopK("potstill", "SparseTargets(rest), ForwardKL", "one event", _ours_top_k)]
    found.append(TopK("potstill", "SparseTargets(rest=None): k samples, ForwardKL", "sampled", _ours_sampled))
    try:
        from trl.experimental.sdft.loss_utils import compute_topk_self_distillation_loss as topk

        for tail, rest in ((True, "one event"), (False, "both renormalised")):
            call = lambda z, t, k, tail=tail: topk(  # noqa: E731
                z, t, distillation_topk=k, distillation_alpha=0.0, distillation_add_tail=tail
            ).mean()
            found.append(TopK("TRL", f"sdft.compute_topk_…_loss, add_tail={tail}", rest, call))
    except ImportError:
        pass
    try:
        from distillkit.lossfuncs.kl import sparse_kl_div
        from distillkit.missing_probability import MissingProbabilityHandling

        for missing, rest in (("SYMMETRIC_UNIFORM", "one event"), ("ZERO", "teacher renormalised")):
            found.append(
                TopK(
                    "DistillKit",
                    f"sparse_kl_div, missing={missing.lower()}",
                    rest,
                    partial(_distillkit_top_k, sparse_kl_div, MissingProbabilityHandling[missing]),
                )
            )
    except ImportError:
        pass
    return found


def _distillkit_top_k(measure: Callable[..., Tensor], missing: object, z: Tensor, t: Tensor, k: int) -> Tensor:
    values, ids = t.log_softmax(-1).topk(k)
    return measure(z[None], ids[None], values[None], missing=missing) / len(z)


def _ours_top_k(z: Tensor, t: Tensor, k: int) -> Tensor:
    probs, ids = t.softmax(-1).topk(k)
    return _ours_sparse(z, SparseTargets(ids, probs, 1 - probs.sum(-1)))


def _ours_sampled(z: Tensor, t: Tensor, k: int) -> Tensor:
    ids = torch.multinomial(t.softmax(-1), k, True, generator=torch.Generator().manual_seed(0))
    return _ours_sparse(z, SparseTargets(ids, torch.full(ids.shape, 1 / k, dtype=z.dtype), None))


def _ours_sparse(z: Tensor, targets: SparseTargets) -> Tensor:
    states = HiddenStates(z, Head(torch.eye(z.shape[1], dtype=z.dtype)))
    tokens, weights = torch.zeros(len(z), dtype=torch.int64), torch.ones(len(z))
    return linear_loss(states, targets, tokens, weights, SoftLabelLoss(ForwardKL())).total / len(z)
