"""Close the gap: the student's weights move until it says what the teacher says.

In: a student (a plain Hugging Face model), a `Teacher` or none, batches by step number, a `SoftLabelLoss`, `TrainingSettings`.
Out: a `Step` after each optimizer step; the caller logs, evaluates, saves or stops.

    for step in train(student, teacher, batches, SoftLabelLoss(), TrainingSettings(steps=1000), folder=Path("run")):
        print(step.index, step.loss)

loop.py        the loop, on Accelerate: one screen
learner.py     who learns, and what is called for it: the student with its loss, whole or divided
passes.py      a step's batch in passes, each process its own rows
sharding.py    weights divided among processes (FSDP2), and made whole again
features.py    what is learned beside the student where features are compared; shares of the gradient
schedule.py    learning rate over the steps: Cosine, Linear, Constant, WarmupStableDecay
annealing.py   Annealing: the teacher's share of the loss over the steps
classifiers.py train_classifier: any torch classifier, images and all
on_policy.py   OnPolicy: text that the student writes as it learns, beside the corpus
watching.py    Watch: steps that would do harm, left out and counted
checkpoint.py  everything a killed run needs to go on bit for bit: weights, optimizer, random state, step
checks.py      before step 0: student = teacher gives zero, and what share of the gradient each term has
"""

from potstill.training.annealing import Annealing
from potstill.training.checkpoint import newest_step
from potstill.training.checks import SelfCheck, self_check
from potstill.training.classifiers import train_classifier
from potstill.training.loop import Batches, Step, TrainingSettings, train
from potstill.training.on_policy import OnPolicy, StudentText, Written
from potstill.training.schedule import Constant, Cosine, Linear, Schedule, WarmupStableDecay

__all__ = [
    "Annealing",
    "Batches",
    "Constant",
    "Cosine",
    "Linear",
    "OnPolicy",
    "Schedule",
    "SelfCheck",
    "Step",
    "StudentText",
    "TrainingSettings",
    "WarmupStableDecay",
    "Written",
    "newest_step",
    "self_check",
    "train",
    "train_classifier",
]
