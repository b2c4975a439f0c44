"""Bodies that anyone can send to the door: passed on, or refused as OpenAI would; never a defect of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mutating import fuzz
from test_fuzz_text import times

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

from test_serving_asking import REQUESTS

from potstill.serving import Limits, RefusedError
from potstill.serving.asking import asked_of

BODIES = [json.dumps(request).encode() for _, request in REQUESTS]


@times(2_000, 40_000)
def test_bodies(cases):
    """What is passed on is JSON, and asks for no more than the limits allow."""
    limits = Limits()

    def reads(data: bytes) -> None:
        for path in ("/chat/completions", "/completions"):
            try:
                asked = asked_of(data, path, limits, ("student", "teacher"))
            except RefusedError as refusal:
                if not 400 <= refusal.status < 500:
                    raise AssertionError(f"status {refusal.status}") from refusal
                continue
            json.dumps(asked.body, allow_nan=False).encode()
            assert asked.body["max_tokens"] <= limits.max_tokens

    fuzz(BODIES, reads, cases=cases)
