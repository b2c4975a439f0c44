"""For the tests here: a text of several shards, a tiny teacher in a folder, and the store that one process makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer

from potstill.data import TokenCorpus
from potstill.models import load_model
from potstill.runs import fingerprint_of_model
from potstill.soft_labels import Manifest, Sampled, begin_store, label
from potstill.teachers import LiveTeacher

TOKENS = 257


@dataclass(frozen=True)
class Small:
    """Where the teacher lies, what it reads, and what is kept of it."""

    model: Path
    corpus: TokenCorpus
    manifest: Manifest

    def begin(self, folder: Path) -> Path:
        """An empty store."""
        begin_store(folder, self.manifest, self.corpus)
        return folder

    def label(self, folder: Path, *, passes: int | None = None) -> Path:
        """By one process, in this one; broken off after so many passes."""
        teacher = LiveTeacher(load_model(str(self.model)), size=TOKENS)
        for number, _ in enumerate(label(teacher, self.corpus, self.begin(folder))):
            if number == passes:
                break
        return folder


def small(folder: Path, *, documents: int = 24, length: int = 60, shard_tokens: int = 200) -> Small:
    """Documents of random bytes, in shards of `shard_tokens`."""
    model = folder / "teacher"
    tiny_llama().save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    draw = np.random.default_rng(0)
    sizes = draw.integers(length // 2, length, documents)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.ones(offsets[-1], dtype=np.float32)
    weights[offsets[:-1]] = 0
    corpus = TokenCorpus(
        draw.integers(0, TOKENS, offsets[-1]).astype(np.uint32),
        weights,
        offsets,
        tuple(str(number) for number in range(documents)),
        np.zeros(documents, dtype=bool),
        np.ones(TOKENS, dtype=np.uint16),
    )
    teacher = {
        "name": str(model),
        "fingerprint": fingerprint_of_model(load_model(str(model))),
        "dtype": "torch.float32",
    }
    manifest = Manifest(
        Sampled(0.1),
        TOKENS,
        "bytes",
        teacher,
        context=32,
        rows=2,
        page_tokens=64,
        shard_tokens=shard_tokens,
        head={"scale": 1.0, "softcap": None},
    )
    return Small(model, corpus, manifest)


def files_of(folder: Path) -> dict[str, bytes]:
    """What a store is, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
