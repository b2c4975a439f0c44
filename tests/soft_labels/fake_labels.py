"""For the tests here: a random text, a teacher that believes something fixed about it, and a store of what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from potstill.data import PackedBatches, TokenCorpus
from potstill.soft_labels import Codec, Manifest, Store, begin_store, label
from potstill.teachers import FakeTeacher

TOKENS, CONTEXT = 300, 16
TEACHER = FakeTeacher(TOKENS, width=12, sharpness=4.0)


def corpus_of(sizes: list[int], *, seed: int = 0, samples: tuple[int, ...] = ()) -> TokenCorpus:
    """Documents of random tokens; those in `samples` are a prompt, of which nothing counts, with its answer."""
    draw = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = (draw.random(offsets[-1]) > 0.1).astype(np.float32)
    is_sample = np.isin(np.arange(len(sizes)), samples)
    for document, start in enumerate(offsets[:-1]):
        weights[start] = 0
        if is_sample[document]:
            weights[start : start + 5] = 0
    return TokenCorpus(
        draw.integers(0, TOKENS, offsets[-1]).astype(np.uint32),
        weights,
        offsets,
        tuple(f"{seed}/{number}" for number in range(len(sizes))),
        is_sample,
        np.ones(TOKENS, dtype=np.uint16),
    )


def manifest_of(codec: Codec, **settings: object) -> Manifest:
    small = {
        "context": CONTEXT,
        "rows": 2,
        "page_tokens": 16,
        "shard_tokens": 100,
        "head": {"scale": 1.0, "softcap": None},
    }
    return Manifest(
        codec, TOKENS, "bytes", {"name": "fake", "fingerprint": "0", "dtype": "float32"}, **(small | settings)
    )  # type: ignore[arg-type]


def labelled(folder: Path, corpus: TokenCorpus, manifest: Manifest) -> Store:
    begin_store(folder, manifest, corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head)
    for _ in label(TEACHER, corpus, folder):
        pass
    return Store(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a store is, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
