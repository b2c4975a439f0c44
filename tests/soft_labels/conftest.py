"""A text with prompts in it, and a store of what a teacher says of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parent))

from fake_labels import corpus_of, labelled, manifest_of

from potstill.data import TokenCorpus
from potstill.soft_labels import Manifest, Sampled, Store


@pytest.fixture
def corpus() -> TokenCorpus:
    return corpus_of([40, 3, 17, 90, 2, 33, 16, 60, 25, 71], samples=(2, 5))


@pytest.fixture
def store(tmp_path: Path, corpus: TokenCorpus) -> Store:
    return labelled(tmp_path / "store", corpus, manifest_of(Sampled(0.1)))


@pytest.fixture
def new_store(tmp_path: Path, corpus: TokenCorpus) -> Callable[[Manifest], Store]:
    return lambda manifest: labelled(tmp_path / manifest.identity, corpus, manifest)
