"""Easy queries to the student, hard ones to the teacher.

In: queries answered by both, scored, with what the student says of its own tokens. Out: a `Policy`, numbers in a JSON file.

    policy = Policy.load(Path("route/policy.json"))
    alarm = DriftAlarm(policy.histogram)
    decision = policy.decide(signals_of(listed_tokens(reply["choices"][0]["logprobs"]["content"])))
    drift = alarm.see(decision.confidence)

signals.py     signals_of: how sure an answer is, from its tokens' log-probabilities
policy.py      Policy, Decision: who answers, and the file it is written to
drift.py       DriftAlarm: whether traffic still looks as it did
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
