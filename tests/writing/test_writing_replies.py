"""What a server's reply says, whatever it is made of."""

from potstill.writing.replies import sample_of


def test_half_a_surrogate_pair_is_a_mark_that_can_be_written():
    sample, _ = sample_of({"choices": [{"message": {"content": "a \ud83d b"}}], "usage": {"completion_tokens": 3}})
    assert sample.text == "a ? b"
    assert sample.text.encode("utf-8") == b"a ? b"
