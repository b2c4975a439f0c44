"""Steps to tensorboard, wandb or trackio, by name, through Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from potstill.errors import MissingExtraError
from potstill.runs.job import Arm
from potstill.training import Step


def check_trackers(names: Sequence[str]) -> None:
    """MissingExtraError for a tracker whose package is not installed: Accelerate would leave it out without a word."""
    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise MissingExtraError(name, extra="trackers", purpose=f'training.trackers = ["{name}"]')


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[Callable[[Arm, Step], None]]:
    """A function that logs a step; steps of arms go by `ARM/loss`, `ARM/soft` and so on. Logs nothing without names."""
    if not names:
        yield lambda arm, step: None
        return
    accelerator = Accelerator(log_with=list(names), project_dir=folder)
    accelerator.init_trackers("potstill")

    def log(arm: Arm, step: Step) -> None:
        figures = {
            "loss": step.loss,
            **step.parts,
            **{f"gradient share, {name}": share for name, share in step.shares.items()},
            **({} if arm.annealing is None or step.alpha is None else {"alpha": step.alpha}),
            "learning_rate": step.learning_rate,
            "gradient_norm": step.gradient_norm,
            "skipped": float(step.skipped is not None),
            "tokens_per_second": step.tokens / max(step.seconds, 1e-9),
        }
        if step.written is not None:
            figures |= {"written_tokens": step.written.tokens, "written_length": step.written.length}
            figures |= {"written_ended": step.written.ended}
        accelerator.log({f"{arm.name}/{name}": value for name, value in figures.items()}, step=step.index)

    try:
        yield log
    finally:
        # Not end_training: it parts the processes, and they go on together.
        for tracker in accelerator.trackers:
            tracker.finish()
