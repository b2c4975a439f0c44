"""Writing: tokens a second beside plain `generate`, and a thousand prompts to a server that often fails. `python benchmarks/write.py`

Makes write.md beside it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from potstill.data import read_documents
from potstill.models import load_model, load_tokenizer
from potstill.writing import (
    Asking,
    Journal,
    LocalWriter,
    Prompt,
    Sampling,
    Server,
    ServerWriter,
    read_prompts,
    totals,
    write,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "writing"))
from faulty_server import Behaviour, serving  # noqa: E402

ROWS, NEW_TOKENS, ROUNDS, CHARACTERS = 16, 128, 3, 200


def main() -> None:
    lines = [
        "# Writing",
        "",
        f"*{datetime.now(UTC):%Y-%m-%d}; `benchmarks/write.py`; {torch.get_num_threads()} of {os.cpu_count()} cores, busy otherwise; "
        f"torch {version('torch')}, transformers {version('transformers')}, Python {platform.python_version()}.*",
        "",
        *local(),
        "",
        *server(),
    ]
    (HERE / "write.md").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n".join(lines))


def local() -> Iterator[str]:
    """The same batch, the same number of tokens, in turns; the median of the rounds."""
    model, tokenizer = load_model("pocket").float(), load_tokenizer("pocket")
    texts = [
        document.text[:CHARACTERS] for document, _ in zip(read_documents("standard-library"), range(ROWS), strict=False)
    ]
    prompts = [Prompt(f"{n}", f"{n}", text, text, None, "") for n, text in enumerate(texts)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    # Ending at a token that is never written, all rows are as long as they may be.
    tokenizer.eos_token = tokenizer.pad_token
    model.generation_config.eos_token_id = tokenizer.pad_token_id
    kinds = {"greedy": Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS)}
    kinds["temperature 0.8, top_p 0.95"] = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=NEW_TOKENS)
    yield f"The pocket teacher in fp32, {ROWS} prompts of {CHARACTERS} characters at a time, {NEW_TOKENS} tokens each;"
    yield f"median of {ROUNDS}, in turns:"
    yield ""
    yield "| | `generate`, tokens/s | `potstill write`, tokens/s | of it |"
    yield "| --- | ---: | ---: | ---: |"
    for name, sampling in kinds.items():
        settings = {"do_sample": sampling.temperature > 0, "max_new_tokens": NEW_TOKENS}
        if sampling.temperature > 0:
            settings |= {"temperature": 0.8, "top_p": 0.95, "top_k": 0}
        theirs, ours = [], []
        for _ in range(ROUNDS + 1):
            with torch.inference_mode(), timed(theirs) as tokens:
                out = model.generate(**batch, **settings)
                tokens.append(ROWS * (out.shape[1] - batch["input_ids"].shape[1]))
            with timed(ours) as tokens:
                found = list(
                    LocalWriter(model, tokenizer, sampling, rows=ROWS).write(prompts, {one.id for one in prompts})
                )
                tokens.append(sum(one.tokens for one in found))
        plain, write_speed = (sorted(speeds[1:])[ROUNDS // 2] for speeds in (theirs, ours))
        yield f"| {name} | {plain:,.0f} | {write_speed:,.0f} | {write_speed / plain:.2f} × |"


@contextmanager
def timed(speeds: list[float]) -> Iterator[list[int]]:
    """Put tokens into it; the speed goes into `speeds`."""
    tokens: list[int] = []
    begun = time.perf_counter()
    yield tokens
    speeds.append(sum(tokens) / (time.perf_counter() - begun))


def server() -> Iterator[str]:
    """A server on this machine that takes 50 ms, and fails as tests/writing/faulty_server.py describes."""
    yield "1,000 prompts, 16 at a time, to a server here that answers in 50 ms, and of whose replies a share goes wrong in nine ways"
    yield "(429, 500, 503, closed, stalled beyond the timeout of 0.4 s, half a reply, no JSON, no choices, no text); waits begin at 10 ms:"
    yield ""
    yield "| replies that go wrong | requests | again | seconds | prompts a second | in the journal | twice |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for share in (0.0, 0.1, 0.3):
        behaviour = Behaviour(share=share, seconds=0.05)
        with tempfile.TemporaryDirectory() as folder, serving(behaviour) as url:
            path = Path(folder)
            (path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(1000)))
            prompts = read_prompts(path / "p.jsonl")
            way = Server(url, timeout=0.4, attempts=30, first_wait=0.01)
            writer = ServerWriter(way, Asking("m", Sampling(), endpoint="completions"), concurrency=16)
            begun = time.perf_counter()
            with Journal(path / "journal.jsonl", {}) as journal:
                for _ in write(prompts, writer, journal):
                    pass
                seconds, done = time.perf_counter() - begun, totals(prompts, journal)
            lines = [json.loads(line)["id"] for line in (path / "journal.jsonl").read_text().splitlines()[1:]]
        twice = len(lines) - len(set(lines))
        again, speed = done.requests - 1000, 1000 / seconds
        yield f"| {share:.0%} | {done.requests:,} | {again:,} | {seconds:.1f} | {speed:,.0f} | {len(lines):,} | {twice} |"


if __name__ == "__main__":
    main()
