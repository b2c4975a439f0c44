"""Where the tiny models and jobs of other rooms live, a model that writes, and a folder to work in."""

import sys
from pathlib import Path

import pytest

for room in ("models", "runs", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))


@pytest.fixture(scope="session")
def pocket():
    from potstill.models import load_model, load_tokenizer

    return load_model("pocket").float(), load_tokenizer("pocket")
