"""A whole run in one folder: teacher, untouched student, distilled student, controls, scores.

In: a `Job`, objects all of them, and a `RunFolder`. Out: events as things happen, `Finished` the last of them. What is in the
folder already is not done again, so a killed run goes on where it was.

    folder = RunFolder.open(Path("runs/notes"), recipe_text, identity)
    for event in distil(job, folder):
        match event:
            case ArmStep(arm, step):
                print(arm.name, step.index, step.loss)
            case Finished(measurements, sizes, speeds, worth):
                print(scores_of(measurements, sizes, speeds, worth))

job.py           Job, Arm: what is to be trained and measured
distillation.py  distil: arms trained, models measured, in the order a person wants to see them
events.py        what a run says as it goes
gate.py          before it: a short student of labels alone beside the teacher
worth.py         Worth: was, or is, the teacher worth hearing on this text?
label_efficiency.py  learn_curves: students on several sizes of one text, by soft labels, hard ones and controls
label_worth.py   label_worth: from all of these, what the soft labels are worth
smoothing.py     the control of smoothed labels, as uncertain as the teacher
stages.py        measure_stages: the students of a run of runs side by side
facts.py         facts as JSON has them
folder.py        RunFolder: what lies where, written whole or not at all, of one run alone
scores.py        RunScores: the models side by side, with sizes and speeds; score_model for `potstill evaluate`
fingerprints.py  what a run is of, and the manifest: versions, machine
measuring.py    a model on a job's held-out text
held_out.py      which held-out text is scored: many documents rather than long ones
exporting.py     a student written for an engine, measured there, called good or not
estimate.py      memory and time beforehand
tracking.py      steps to tensorboard, wandb or trackio, through Accelerate
"""

from potstill.evaluation import ModelScores
from potstill.runs.distillation import distil
from potstill.runs.estimate import Estimate, estimate, memory_of
from potstill.runs.events import ArmStep, Event, Finished, Judged, Measured, Stage
from potstill.runs.fingerprints import fingerprint_of_model, fingerprint_of_tokenizer, manifest, versions
from potstill.runs.folder import RunFolder
from potstill.runs.held_out import held_out_sample
from potstill.runs.job import Arm, Gate, Job
from potstill.runs.label_efficiency import (
    CONTROLS,
    Control,
    Efficiency,
    Part,
    curves_of,
    information_of,
    learn_curves,
    parts_of,
    trainings_of,
)
from potstill.runs.label_worth import GRADIENT_ERROR, LABELS_IN_WORDS, LabelWorth, label_worth
from potstill.runs.scores import IN_WORDS, OTHER_TOKENS, RunScores, score_model, scores_of
from potstill.runs.stages import Together, measure_stages
from potstill.runs.tracking import check_trackers
from potstill.runs.worth import Worth, worth_of

__all__ = [
    "CONTROLS",
    "GRADIENT_ERROR",
    "IN_WORDS",
    "LABELS_IN_WORDS",
    "OTHER_TOKENS",
    "Arm",
    "ArmStep",
    "Control",
    "Efficiency",
    "Estimate",
    "Event",
    "Finished",
    "Gate",
    "Job",
    "Judged",
    "LabelWorth",
    "Measured",
    "ModelScores",
    "Part",
    "RunFolder",
    "RunScores",
    "Stage",
    "Together",
    "Worth",
    "check_trackers",
    "curves_of",
    "distil",
    "estimate",
    "fingerprint_of_model",
    "fingerprint_of_tokenizer",
    "held_out_sample",
    "information_of",
    "label_worth",
    "learn_curves",
    "manifest",
    "measure_stages",
    "memory_of",
    "parts_of",
    "score_model",
    "scores_of",
    "trainings_of",
    "versions",
    "worth_of",
]
