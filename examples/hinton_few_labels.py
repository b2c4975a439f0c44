"""Soft labels say more than hard ones where there are few: a student of n images, by their classes or by a teacher's probabilities.

    make examples            (or: .venv/bin/python examples/hinton_few_labels.py, after tools/setup.sh --group examples)

scikit-learn's 1,797 digits of 8 x 8 pixels. The teacher has read 1,200 of them; each student reads the first n of these and nothing else,
as often. Mean of three seeds, with their range.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

from potstill import ForwardKL, SoftLabelLoss, TrainingSettings, train_classifier

COUNTS, SEEDS = (50, 100, 200, 400, 1200), (0, 1, 2)
HARD, SOFT = SoftLabelLoss(alpha=0.0), SoftLabelLoss(ForwardKL(), temperature=4.0)


def classifier(hidden: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def learned(
    student: nn.Module, teacher, images, labels, measure: SoftLabelLoss, steps: int, seed: int = 0
) -> nn.Module:
    settings = TrainingSettings(steps=steps, learning_rate=3e-3, seed=seed)
    for _ in train_classifier(student, teacher, images, labels, measure, settings, rows=min(64, len(images))):
        pass
    return student.eval()


def main() -> None:
    torch.set_num_threads(1)  # models as small as these are faster so
    images, labels = (torch.tensor(one) for one in load_digits(return_X_y=True))
    images = images.float() / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    learn, test = order[:1200], order[1200:]

    def right(model: nn.Module) -> float:
        with torch.no_grad():
            return 100 * (model(images[test]).argmax(-1) == labels[test]).float().mean().item()

    teacher = learned(classifier(512, 0), None, images[learn], labels[learn], HARD, 800)
    with torch.no_grad():
        said = teacher(images)
    print(f"teacher: {right(teacher):.1f} % of {len(test)} test images")
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, measure in (("hard labels", HARD), ("soft labels, T = 4", SOFT)):
        found = [
            [
                right(learned(classifier(32, seed), said[some], images[some], labels[some], measure, 800, seed))
                for seed in SEEDS
            ]
            for some in (learn[:count] for count in COUNTS)
        ]
        means = [sum(one) / len(one) for one in found]
        ranges = [
            [mean - min(one) for mean, one in zip(means, found, strict=True)],
            [max(one) - mean for mean, one in zip(means, found, strict=True)],
        ]
        axes.errorbar(COUNTS, means, ranges, marker="o", capsize=3, label=name)
        print(f"{name:20s}", "  ".join(f"n = {count}: {mean:.1f} %" for count, mean in zip(COUNTS, means, strict=True)))
    axes.axhline(right(teacher), color="grey", linestyle=":", label="teacher")
    axes.set(
        xscale="log",
        xticks=COUNTS,
        xticklabels=COUNTS,
        xlabel="images the student reads",
        ylabel="% of test images right",
    )
    axes.legend()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
