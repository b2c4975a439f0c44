"""Run by test_soft_labels_store.py, alone and killed by it, or beside others ("many"): labels the fixtures' corpus, slowly."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from fake_labels import TEACHER, corpus_of, manifest_of

from potstill.data import PackedBatches
from potstill.soft_labels import Sampled, begin_store, label


def main(folder: Path, *, is_one_of_many: bool) -> None:
    corpus = corpus_of([40, 3, 17, 90, 2, 33, 16, 60, 25, 71], samples=(2, 5))
    print("begins", flush=True)
    begin_store(
        folder, manifest_of(Sampled(0.1)), corpus, TEACHER.label(next(PackedBatches(corpus, 8, 1).from_step(0))).head
    )
    for _ in label(TEACHER, corpus, folder, is_one_of_many=is_one_of_many):
        time.sleep(0.03)


if __name__ == "__main__":
    main(Path(sys.argv[1]), is_one_of_many="many" in sys.argv)
