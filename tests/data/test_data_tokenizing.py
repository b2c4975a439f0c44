"""Documents as token ids and the weight of predicting each."""

import resource
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer
from tokenizers import processors

from potstill.data import Document, Part, TokenCorpus, check_learnable, place_of, preview, split_of, tokenize
from potstill.errors import DataError, RunDirectoryError

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id


def document(*parts: tuple[str, bool], key: str = "key", **options: bool) -> Document:
    return Document(key, tuple(Part(text, counts) for text, counts in parts), **options)


def test_all_of_a_plain_text_counts_but_its_first_token():
    corpus = tokenize([document(("abc", True))], TOKENIZER)
    assert TOKENIZER.decode(corpus.ids) == "abc<|end|>"
    assert corpus.weights.tolist() == [0, 1, 1, 1]
    assert corpus.num_bytes.tolist() == [2]  # "bc": the first byte is not predicted, the end mark is no text


def test_a_prompt_is_read_and_its_completion_learned_with_the_end():
    corpus = tokenize([document(("ab", False), ("cd", True), is_sample=True)], TOKENIZER)
    assert corpus.weights.tolist() == [0, 0, 1, 1, 1]
    assert corpus.ids[-1] == END


def test_a_chat_ends_itself():
    corpus = tokenize([document(("ab", False), ("c<|end|>", True), is_sample=True, ends=False)], TOKENIZER)
    assert corpus.ids.tolist()[-1] == END
    assert corpus.weights.tolist() == [0, 0, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.booleans()), min_size=1, max_size=6))
def test_every_byte_of_what_counts_has_weight_one(parts):
    corpus = tokenize([document(*parts)], TOKENIZER)
    counted = [counts for text, counts in parts for _ in text.encode()]
    # A character of several bytes counts whole or not at all, and the document's first token never does.
    assert corpus.weights.tolist()[1 : len(counted)] == [float(counts) for counts in counted[1:]]
    assert corpus.ids[-1] == END


def test_many_documents_are_what_each_is_alone():
    documents = [document((f"text {number}", True), key=str(number)) for number in range(600)]
    corpus = tokenize(documents, TOKENIZER)
    for index in (0, 255, 256, 599):
        alone = tokenize([documents[index]], TOKENIZER)
        for together, single in zip(corpus.document(index), alone.document(0), strict=True):
            np.testing.assert_array_equal(together, single)


def test_a_corpus_reloads_as_it_was_saved(tmp_path):
    corpus = tokenize([document(("ab", False), ("cd", True), key="é\ud800", is_sample=True)], TOKENIZER)
    with pytest.raises(UnicodeEncodeError):
        "\ud800".encode()
    corpus.save(tmp_path / "tokens")
    again = TokenCorpus.load(tmp_path / "tokens")
    assert again.keys == corpus.keys
    np.testing.assert_array_equal(again.ids, corpus.ids)
    np.testing.assert_array_equal(again.weights, corpus.weights)
    (tmp_path / "tokens" / "ids.npy").unlink()
    with pytest.raises(DataError, match="holds no tokenised corpus"):
        TokenCorpus.load(tmp_path / "tokens")


@pytest.mark.parametrize("too_few", [1, 100])
def test_a_disk_that_fills_up_with_the_last_bytes_is_named(too_few, tmp_path):
    """Files may get no larger than the largest one, but for so many bytes."""
    corpus = tokenize([document(("abcdef" * 100, True), key=f"{key:05}") for key in range(40)], TOKENIZER)
    corpus.save(tmp_path / "whole")
    largest = max(file.stat().st_size for file in (tmp_path / "whole").glob("*.npy"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - too_few, limits[1]))
    try:
        with pytest.raises(RunDirectoryError, match="can't write the tokenised text"):
            corpus.save(tmp_path / "tokens")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(DataError, match="holds no tokenised corpus"):
        TokenCorpus.load(tmp_path / "tokens")


def test_domains_go_along(tmp_path):
    corpus = tokenize(
        [
            replace(document(("ab", True), key=key), domain=domain)
            for key, domain in zip("xyz", ("prose", None, "code"), strict=True)
        ],
        TOKENIZER,
    )
    assert corpus.domains == ("prose", "", "code")
    assert corpus.select([2, 0]).domains == ("code", "prose")
    corpus.save(tmp_path / "tokens")
    assert TokenCorpus.load(tmp_path / "tokens").domains == corpus.domains
    assert tokenize([document(("ab", True), key="x")], TOKENIZER).domains == ()


def test_beginnings_keep_a_token_more_than_predictions():
    corpus = tokenize([document(("abcdef", True), key=key) for key in "xyz"], TOKENIZER)
    cut = corpus.beginnings(2, [2, 0])
    assert cut.keys == ("z", "x")
    assert [TOKENIZER.decode(cut.document(index)[0]) for index in (0, 1)] == ["abc", "abc"]


def test_nothing_to_learn_is_refused():
    corpus = tokenize([document(("only a prompt", False), ends=False)], TOKENIZER)
    with pytest.raises(DataError, match=r"none of the 13 tokens in 1 documents counts"):
        check_learnable(corpus)


def test_splits_are_of_the_key_alone_and_held_out_never_moves():
    keys = [f"document {number}" for number in range(4000)]
    shares = {split: sum(split_of(key) == split for key in keys) / len(keys) for split in ("held_out", "search")}
    assert shares["held_out"] == pytest.approx(0.10, abs=0.02)
    assert shares["search"] == pytest.approx(0.05, abs=0.015)
    held_out = {key for key in keys if split_of(key, held_out=0.1, search=0.05) == "held_out"}
    assert {key for key in keys if split_of(key, held_out=0.1, search=0.6) == "held_out"} == held_out
    assert all(place_of(key) < 0.1 for key in held_out)
    assert place_of("argparse.py") == pytest.approx(0.9241621883, abs=1e-9)  # the same on every machine, for ever


def test_the_preview_colours_what_is_learned():
    corpus = tokenize([document(("ab\n", False), ("cd", True))], TOKENIZER)
    [shown] = preview(corpus, TOKENIZER)
    assert "6 tokens, 3 learned" in shown.plain
    styles = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert styles["a"] == "dim"
    assert styles["⏎\n"] == "dim"
    assert "green" in styles["d"] or "cyan" in styles["d"]
    assert styles["c"] != styles["d"]


@pytest.mark.parametrize("trims", [True, False])
def test_spaces_count_where_a_tokenizer_trims_them_from_its_offsets(trims):
    """As GPT-NeoX's does: a token of spaces is then reported as having no characters."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trims)
    corpus = tokenize([document(("Q: x", False), (" a\n  b", True), (" c", False), is_sample=True)], tokenizer)
    assert corpus.weights.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1]


def test_a_token_the_tokenizer_put_in_front_does_not_count():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", pair="<|end|> $A $B", special_tokens=[("<|end|>", END)]
    )
    corpus = tokenize([document(("a", False), ("b", True), is_sample=True)], tokenizer)
    assert corpus.ids.tolist()[0] == END
    assert corpus.weights.tolist() == [0, 0, 1, 1]
