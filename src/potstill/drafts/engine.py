"""Speculation in llama.cpp: its own counters, with the student's GGUF file as the draft of its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.engines import LlamaServer


@dataclass(frozen=True)
class EngineRounds:
    """Of several prompts: tokens written, drafted and accepted, and seconds of writing by the engine's own clock."""

    tokens: int
    drafted: int
    accepted: int
    seconds: float

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted / drafted; 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Written."""
        return self.tokens / self.seconds


def engine_rounds(
    teacher: Path,
    student: Path | None,
    prompts: Sequence[NDArray[np.int64]],
    *,
    length: int,
    temperature: float,
    new_tokens: int,
    context: int,
) -> tuple[EngineRounds, list[list[int]]]:
    """What llama.cpp does with the teacher's file, alone or with the student's as a draft, and the tokens that it wrote."""
    total, texts = EngineRounds(0, 0, 0, 0.0), []
    with LlamaServer(teacher, context=context, draft=student, draft_tokens=length) as server:
        for number, prompt in enumerate(prompts):
            asked = {
                "prompt": prompt.tolist(),
                "n_predict": new_tokens,
                "temperature": temperature,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "seed": number,
                "cache_prompt": False,
                "return_tokens": True,
            }
            answer = server.ask("/completion", asked)
            timings = answer["timings"]
            texts.append(answer["tokens"])
            total = EngineRounds(
                total.tokens + int(timings["predicted_n"]),
                total.drafted + int(timings.get("draft_n", 0)),
                total.accepted + int(timings.get("draft_n_accepted", 0)),
                total.seconds + timings["predicted_ms"] / 1000,
            )
    return total, texts
