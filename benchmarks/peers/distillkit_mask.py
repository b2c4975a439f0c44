"""Which of the student's predictions carry gradient in DistillKit's trainer, beside those whose target is a completion token.

Needs DistillKit with the versions that it asks for (TRL 0.25), in an environment of its own:

    python -m venv dk && dk/bin/pip install "distillkit @ git+https://github.com/arcee-ai/DistillKit@a61c2e7"
    dk/bin/python benchmarks/peers/distillkit_mask.py
"""

from types import SimpleNamespace

import torch
from distillkit.lossfuncs import KLDLoss
from distillkit.signals import DenseSignal
from distillkit.trainer import DistillationTrainer

logits = torch.randn(1, 8, 11, requires_grad=True)
signal = DenseSignal(1.0, None, 11, torch.randn(1, 8, 11))
trainer = SimpleNamespace(
    signal_source=SimpleNamespace(get_signal=lambda *_, **__: signal),
    need_hidden_states=False,
    hidden_state_mapping=None,
    loss_functions=[KLDLoss(temperature=1.0)],
    config=SimpleNamespace(loss_functions=[SimpleNamespace(function=SimpleNamespace(value="kl"), weight=1.0)]),
    log=lambda _: None,
)
# A prompt of three tokens, a completion of four, one of padding: its tokens are predicted at positions 2 to 5.
labels = torch.tensor([[-100, -100, -100, 5, 6, 7, 8, -100]])
DistillationTrainer.total_distillation_loss(trainer, SimpleNamespace(logits=logits), {"labels": labels}).backward()
print("carry gradient:          ", [place for place in range(8) if logits.grad[0, place].any()])
print("predict a completion token:", [place for place in range(7) if labels[0, place + 1] >= 0])
