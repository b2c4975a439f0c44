"""The student writes ahead, its teacher checks: speculative decoding, predicted and measured.

    texts = written_by(teacher, prompts, temperature=0.0, new_tokens=64, ends=(0,), size=size)
    accepted = [acceptance(teacher, student, text, temperature=0.0, size=size) for text in texts]
    costs = measure_costs(teacher, student, longest=8)
    for length in range(1, 9):
        expected = expect(accepted, length)
        print(length, expected.mean_acceptance_length, speedup(expected, costs))
    run = speculate(teacher, student, prompts[0], length=4, temperature=0.0, new_tokens=64, ends=(0,))

In: a teacher, a student of the same vocabulary, prompts. Out: how many of the student's tokens the teacher takes, and what time that
saves. The words are vLLM's: mean acceptance length counts the teacher's own token, draft acceptance rate is accepted / drafted.

acceptance.py  acceptance: from one pass of both over the teacher's text; expect: rounds replayed on it
costs.py       Costs: a token of the student, some tokens at once of the teacher; speedup
rounds.py      Rounds: what was drafted and accepted, counted
speculating.py speculate, plainly: transformers' assisted generation beside the teacher alone
engine.py      the same in llama.cpp
trial.py       try_draft: all of it for one way of choosing tokens
"""

from potstill.drafts.acceptance import Expectation, Text, acceptance, expect, expect_independent, written_by
from potstill.drafts.costs import Costs, best_length, measure_costs, speedup
from potstill.drafts.engine import EngineRounds, engine_rounds
from potstill.drafts.rounds import Rounds
from potstill.drafts.speculating import Timed, plainly, speculate
from potstill.drafts.trial import Measured, Prompted, Rate, Trial, rate_of, try_draft

__all__ = [
    "Costs",
    "EngineRounds",
    "Expectation",
    "Measured",
    "Prompted",
    "Rate",
    "Rounds",
    "Text",
    "Timed",
    "Trial",
    "acceptance",
    "best_length",
    "engine_rounds",
    "expect",
    "expect_independent",
    "measure_costs",
    "plainly",
    "rate_of",
    "speculate",
    "speedup",
    "try_draft",
    "written_by",
]
