"""What rows say of themselves beside their text: how much they count, what they are held out with, whether they end."""

import json

import numpy as np
import pytest

from potstill.data import Columns, read_documents, tokenize
from potstill.errors import DataError
from potstill.models import load_tokenizer


def documents(path, rows: list[dict], columns: Columns | None = None):
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_documents(path / "rows.jsonl", columns=columns))


def test_a_row_may_weigh_more_than_another(tmp_path):
    row = {"prompt": "def f", "completion": "(self):"}
    found = documents(tmp_path, [row, row | {"loss_weight": 2.5}, row | {"loss_weight": 3}, row | {"weight": 9.0}])
    tokenizer = load_tokenizer("pocket")
    corpus = tokenize(found, tokenizer)
    plain = corpus.document(0)[1]
    assert set(plain.tolist()) == {0.0, 1.0}
    for number, weight in enumerate((1.0, 2.5, 3.0, 1.0)):
        np.testing.assert_array_equal(corpus.document(number)[1], plain * weight)
    named = documents(tmp_path, [row | {"weight": 9.0}], Columns(weight="weight"))
    assert named[0].weight == 9.0


@pytest.mark.parametrize("weight", [0, -1.0, "2", True, float("nan"), float("inf")])
def test_no_other_weight_is_one(tmp_path, weight):
    with pytest.raises(DataError, match=r"line 1.*'loss_weight' is .*needs a number above 0"):
        documents(tmp_path, [{"prompt": "a", "completion": "b", "loss_weight": weight}])


def test_rows_of_one_prompt_are_held_out_together(tmp_path):
    rows = [{"prompt": "a", "completion": f"{n}", "split_key": "a"} for n in range(3)] + [
        {"prompt": "a", "completion": "b"}
    ]
    found = documents(tmp_path, rows)
    assert [one.key for one in found[:3]] == ["a"] * 3
    assert found[3].key != "a"


def test_no_end_is_learned_where_there_was_none(tmp_path):
    row = {"prompt": "def f", "completion": "(self"}
    corpus = tokenize(
        documents(tmp_path, [row, row | {"ends": False}, row | {"ends": True}]), tokenizer := load_tokenizer("pocket")
    )
    assert [corpus.document(n)[0][-1] == tokenizer.eos_token_id for n in range(3)] == [True, False, True]
