"""Easy queries to the student, hard ones to the teacher.

In: queries answered by both, scored, with what the student says of its own tokens. Out: a `Policy`, numbers in a JSON file, with a
promise: quality of the mix >= rho · the teacher's, with probability >= 1 - delta.

    from potstill.routing.calibration import Asked, Wanted, calibrate
    from potstill.routing.queries import read_scored

    found = calibrate(read_scored("answers.jsonl", judge_of("exact")), Asked("given", "student", "teacher"), Wanted(rho=0.97))
    found.policy.save(Path("route/policy.json"))

    policy = Policy.load(Path("route/policy.json"))
    alarm = DriftAlarm(policy.histogram)
    decision = policy.decide(signals_of(listed_tokens(reply["choices"][0]["logprobs"]["content"])))
    drift = alarm.see(decision.score)

What a server needs is here by name and takes no torch; what calibrates is imported from its file.

signals.py     signals_of: how sure an answer is, from its tokens' log-probabilities
policy.py      Policy, Decision: who answers, and the file it is written to
drift.py       DriftAlarm: whether traffic still looks as it did
queries.py     read_queries, read_scored: what is calibrated on
answering.py   ChoosingWriter, scored: both models' answers and what they are worth
places.py      scored_places: next tokens of a text as queries
confidence.py  from signals to probabilities: isotonic curves, a trained classifier; AUROC and calibration error
promise.py     certify: a threshold with a finite-sample guarantee; how many queries that takes
curves.py      quality and cost against the student's share
calibration.py calibrate: all of it
"""

from potstill.routing.drift import Drift, DriftAlarm, drift_of, histogram_of
from potstill.routing.policy import (
    AnsweredBy,
    Answering,
    Calibration,
    Confidence,
    Decision,
    Histogram,
    Policy,
    Promise,
    policy_from_json,
)
from potstill.routing.signals import (
    PROMPT_FEATURES,
    SIGNALS,
    TOP_LOGPROBS,
    Signals,
    TokenLogprobs,
    listed_tokens,
    prompt_features,
    signals_of,
)

__all__ = [
    "PROMPT_FEATURES",
    "SIGNALS",
    "TOP_LOGPROBS",
    "AnsweredBy",
    "Answering",
    "Calibration",
    "Confidence",
    "Decision",
    "Drift",
    "DriftAlarm",
    "Histogram",
    "Policy",
    "Promise",
    "Signals",
    "TokenLogprobs",
    "drift_of",
    "histogram_of",
    "listed_tokens",
    "policy_from_json",
    "prompt_features",
    "signals_of",
]
