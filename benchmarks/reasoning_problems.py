"""Sums of three and four numbers from reasoning-gym, as rows of prompt, answer and worked steps; reasoning-gym alone must be installed.

python -m venv somewhere && somewhere/bin/pip install reasoning-gym
somewhere/bin/python benchmarks/reasoning_problems.py 40000 > runs/traces/problems.jsonl
"""

import json
import sys

import reasoning_gym


def worked(expression: str) -> str:
    """One sum a line, from the left."""
    first, *rest = expression.split(" ")
    total, lines = int(first), []
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(number) if sign == "+" else total - int(number)
        lines.append(f"{total} {sign} {number} = {result}")
        total = result
    return "\n".join(lines)


problems = reasoning_gym.create_dataset(
    "chain_sum", size=int(sys.argv[1]), seed=1, min_terms=3, max_terms=4, min_digits=1, max_digits=2
)
seen = set()
for one in problems:
    expression = one["metadata"]["expression"]
    if expression in seen:
        continue
    seen.add(expression)
    steps = worked(expression)
    row = {"prompt": f"{expression} =\n", "answer": one["answer"], "steps": steps}
    assert problems.score_answer(steps.rpartition("= ")[2], one) == 1.0  # reasoning-gym's own verifier
    print(json.dumps(row))
