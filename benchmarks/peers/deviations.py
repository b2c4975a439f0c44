"""Each thing that does not hold, alone and short. What a function prints is in the page beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import torch


def torchtune_value_at_the_teacher() -> None:
    from torchtune.modules.loss import ForwardKLLoss

    logits, labels = torch.randn(5, 11), torch.zeros(5, dtype=torch.int64)
    log_p = logits.log_softmax(-1)
    print("loss:", ForwardKLLoss()(logits, logits, labels).item())
    print("entropy of the teacher:", -(log_p.exp() * log_p).sum(-1).mean().item())


def torchtune_nothing_counts() -> None:
    from torchtune.modules.loss import ForwardKLLoss, ReverseKLWithChunkedOutputLoss

    z, t = torch.randn(1, 8, 11, requires_grad=True), torch.randn(1, 8, 11)
    labels = torch.full((1, 8), -100)
    print("has a graph:", ForwardKLLoss()(z[0], t[0], labels[0]).requires_grad)
    print("in chunks:", ReverseKLWithChunkedOutputLoss()(list(z.chunk(8, 1)), list(t.chunk(8, 1)), labels).item())


def distillkit_nothing_counts() -> None:
    from types import SimpleNamespace

    from distillkit.lossfuncs import KLDLoss
    from distillkit.signals import DenseSignal

    z, t, mask = torch.randn(1, 8, 11), torch.randn(1, 8, 11), torch.zeros(1, 8, 1)
    print(KLDLoss(temperature=1.0)(SimpleNamespace(logits=z), DenseSignal(1.0, None, 11, t), mask=mask).item())


def liger_padded_vocabulary() -> None:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    # The teacher's head has 12 rows more that its softmax all but ignores; the student is the teacher.
    rows, head, labels = torch.randn(9, 16), torch.randn(97, 16), torch.zeros(9, dtype=torch.int64)
    padded = torch.cat([head, torch.zeros(12, 16)])
    bias = torch.cat([torch.zeros(97), torch.full((12,), -50.0)])
    measure = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False)
    print("same vocabulary:", measure(rows, head, rows, head, labels).item())
    print("teacher padded: ", measure(rows, head, rows, padded, labels, None, bias).item())


def torchdistill_square_of_the_temperature() -> None:
    from torchdistill.losses.mid_level import KDLoss

    z, t, labels = {"x": {"y": torch.randn(5, 11)}}, {"x": {"y": torch.randn(5, 11)}}, torch.zeros(5, dtype=torch.int64)
    found = {
        alpha: KDLoss("x", "y", "x", "y", temperature=4.0, alpha=alpha)(z, t, labels).item() for alpha in (0.0, 1e-6)
    }
    print(found, "ratio:", found[1e-6] / found[0.0])


def modelopt_accumulation() -> None:
    # One row at a time, four times, beside four at once; every row has six predictions that count.
    from peers.accumulation import EQUAL, gradient, length, modelopt

    print("× as long:", length(gradient(modelopt, 1, EQUAL)) / length(gradient(modelopt, 4, EQUAL)))


def kl_div_of_minus_infinity() -> None:
    from trl.experimental.gkd import GKDTrainer

    z, t = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, -torch.inf]]])
    print(
        "log_target:",
        torch.nn.functional.kl_div(z.log_softmax(-1), t.log_softmax(-1), reduction="sum", log_target=True).item(),
    )
    print("target:    ", torch.nn.functional.kl_div(z.log_softmax(-1), t.softmax(-1), reduction="sum").item())
    print("TRL:       ", GKDTrainer.generalized_jsd_loss(z, t, beta=0.0).item())


ALL: dict[str, Callable[[], None]] = {
    "torchtune: `ForwardKLLoss` is the cross-entropy of teacher and student": torchtune_value_at_the_teacher,
    "torchtune: a micro-batch in which nothing counts": torchtune_nothing_counts,
    "DistillKit: a micro-batch in which nothing counts": distillkit_nothing_counts,
    "Liger: a teacher whose vocabulary is padded": liger_padded_vocabulary,
    "torchdistill: `KDLoss` has T² only beside hard labels": torchdistill_square_of_the_temperature,
    "Model-Optimizer: `KDTrainer` with gradient accumulation": modelopt_accumulation,
    "TRL, Liger, DistillKit and `F.kl_div(log_target=True)`: a teacher's −∞": kl_div_of_minus_infinity,
}


def shown(reproduce: Callable[[], None]) -> tuple[str, str]:
    """The lines of a reproduction, and what they print."""
    torch.manual_seed(0)
    with redirect_stdout(StringIO()) as printed:
        try:
            reproduce()
        except ImportError as error:
            print(f"not run: {error}")
    lines = inspect.getsource(reproduce).splitlines()[1:]
    kept = [
        line
        for line in printed.getvalue().splitlines()
        if not line.startswith(("{'train_runtime", "Teacher model", "ModelOpt"))
    ]
    return "\n".join(line.removeprefix("    ") for line in lines).strip(), "\n".join(kept)
