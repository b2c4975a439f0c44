"""What is kept, and as what it is learned: filters, duplicates, the best of several, two tasks a prompt."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.data import judge_of, ordered_batches, pattern_of, read_documents, tokenize
from potstill.errors import DataError
from potstill.models import load_tokenizer
from potstill.writing import (
    Duplicates,
    Framing,
    Journal,
    PromptColumns,
    Rationale,
    Sample,
    Selection,
    Steps,
    Written,
    found_in,
    judged,
    likely,
    long_enough,
    read_prompts,
    rows,
    select,
    write_rows,
)
from potstill.writing.duplicates import Known

THINK = r"(?s)<think>(?P<rationale>.*?)</think>\s*(?P<answer>.*)"


def set_up(path, texts: list[list[str | Sample]], answers: list[str] | None = None, framing: Framing | None = None):
    """Prompts, and a journal in which something was written for each."""
    found = [{"prompt": f"question {n}", "answer": answers[n] if answers else None} for n in range(len(texts))]
    (path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    prompts = read_prompts(path / "p.jsonl", framing=framing)
    journal = Journal(path / "j", {})
    for prompt, some in zip(prompts, texts, strict=True):
        samples = [s if isinstance(s, Sample) else Sample(s, len(s.split()), is_cut=False) for s in some]
        journal.append(Written(prompt.id, tuple(samples)))
    return prompts, journal


def kept_texts(path, texts, selection, answers=None):
    prompts, journal = set_up(path, texts, answers)
    with journal:
        selected = select(prompts, journal, selection)
        return [journal.read(prompts[p].id).samples[n].text for p, n in selected.kept], selected.refused


def test_judges(tmp_path):
    def half(prompt: str, answer: str, written: str) -> float:
        return 0.5 * prompt.endswith("0") + 0.5 * ("<think>" in written)

    texts = [[f"<think>so</think> {answer}"] for answer in ("Four", "four\nor five", "it is four.", "five")]
    selection = Selection(rationale=Rationale.of(THINK), filters=(judged("exact", judge_of("exact")),))
    found, refused = kept_texts(tmp_path, texts, selection, ["four"] * 4)
    assert (found, refused) == ([texts[0][0], texts[1][0]], {"exact": 2})
    (tmp_path / "j").unlink()
    regex = judged("regex", judge_of("regex", r"it is (\w+)"))
    assert kept_texts(tmp_path, texts, replace(selection, filters=(regex,)), ["four"] * 4)[0] == [texts[2][0]]
    (tmp_path / "j").unlink()
    python = judged("python", half, at_least=1.0, whole=True)
    assert kept_texts(tmp_path, texts, replace(selection, filters=(python,)))[0] == [texts[0][0]]


def test_what_can_be_seen_from_the_text(tmp_path):
    samples = [
        Sample("good one", 2, is_cut=False, mean_logprob=-0.5),
        Sample("unlikely one", 2, is_cut=False, mean_logprob=-2.0),
        Sample("too many words are in this one", 7, is_cut=False, mean_logprob=-0.1),
        Sample("bad one", 2, is_cut=False, mean_logprob=-0.1),
        Sample("good, but cut", 3, is_cut=True, mean_logprob=-0.1),
        Sample("  \n", 1, is_cut=False, mean_logprob=-0.1),
    ]
    filters = (
        found_in("found", pattern_of("one")),
        found_in("found 2", pattern_of("^bad"), is_wanted=False),
        likely("likelihood", -1.0),
        long_enough("length", tokens=(None, 6), characters=(3, None)),
    )
    found, refused = kept_texts(tmp_path, [[one] for one in samples], Selection(filters))
    assert found == ["good one"]
    assert refused == {"likelihood": 1, "length": 1, "found 2": 1, "cut": 1, "empty": 1}
    (tmp_path / "j").unlink()
    assert len(kept_texts(tmp_path, [[one] for one in samples], Selection(cut=True))[0]) == 5
    (tmp_path / "j").unlink()
    with pytest.raises(DataError, match="no log-probabilities"):
        kept_texts(tmp_path, [["without one"]], Selection(filters))


def test_the_best_or_all(tmp_path):
    some = [Sample(f"text {n}", 2, is_cut=False, mean_logprob=-1.0 / (n + 1)) for n in range(4)]
    texts = [[*some, some[0]], ["first", "second"]]
    shortest = (found_in("found", pattern_of("3"), is_wanted=False),)
    assert kept_texts(tmp_path, texts, Selection(shortest)) == (
        ["text 2", "first"],
        {"found": 1, "not the best": 4},
    )
    (tmp_path / "j").unlink()
    found, refused = kept_texts(tmp_path, texts, Selection(keep="all", duplicates=Duplicates()))
    assert (found, refused) == (["text 0", "text 1", "text 2", "text 3", "first", "second"], {"duplicates": 1})


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=12).map(" ".join)


@given(texts=st.lists(WORDS, max_size=25), similar=st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0]), words=st.integers(1, 3))
def test_no_similar_pair_is_missed_and_none_invented(texts, similar, words):
    def runs(text: str) -> set:
        found = text.split()
        return {tuple(found[at : at + words]) for at in range(max(1, len(found) - words + 1))}

    known, slow = Known(Duplicates(similar, words), texts), []
    for text in texts:
        same = any(len(runs(text) & other) / len(runs(text) | other) >= similar for other in slow)
        assert known.has(text) == same
        if not same:
            known.add(text)
            slow.append(runs(text))


def test_equal_but_for_case_and_space(tmp_path):
    texts = [["The same  text"], ["the same\ntext "], ["another"]]
    assert kept_texts(tmp_path, texts, Selection(duplicates=Duplicates()))[0] == ["The same  text", "another"]
    (tmp_path / "j").unlink()
    whole = Selection(duplicates=Duplicates(whole=True))
    assert len(kept_texts(tmp_path, texts, whole)[0]) == 3


def test_near_duplicates_among_many():
    """Thousands of texts that share a beginning, which a naive index would compare pair by pair."""
    chance = random.Random(0)
    start = "let me think about this problem step by step and write what I know first "
    texts = [start + " ".join(f"w{chance.randrange(5000)}" for _ in range(60)) for _ in range(1000)]
    known = Known(Duplicates(0.8), texts)
    for text in texts:
        assert not known.has(text)
        known.add(text)
    assert known.has(texts[7] + " w1 w2")
    assert not known.has(" ".join(texts[7].split()[:50]))


def test_rows_are_learned_as_they_were_written(tmp_path):
    cut = Sample("cut here", 2, is_cut=True)
    prompts, journal = set_up(tmp_path, [["whole"], [cut]], framing=Framing(template="Q: {prompt}\nA:"))
    selection = Selection(cut=True)
    tokenizer = load_tokenizer("pocket")
    with journal:
        selected = select(prompts, journal, selection)
        write_rows(tmp_path / "sent.jsonl", rows(prompts, journal, selected, selection))
        write_rows(tmp_path / "bare.jsonl", rows(prompts, journal, selected, selection, sent=False))
    documents = list(read_documents(tmp_path / "sent.jsonl"))
    assert [(one.text, one.ends) for one in documents] == [
        ("Q: question 0\nA:whole", True),
        ("Q: question 1\nA:cut here", False),
    ]
    assert [one.text for one in read_documents(tmp_path / "bare.jsonl")] == ["question 0whole", "question 1cut here"]
    corpus = tokenize(documents, tokenizer)
    ends = corpus.ids[corpus.offsets[1:] - 1] == tokenizer.eos_token_id
    assert ends.tolist() == [True, False], "no end of text is learned where there was none"
    assert len(list(read_documents(tmp_path / "sent.jsonl"))) == len({one.key for one in documents}) == 2


def test_a_conversation_stays_one(tmp_path):
    prompts, journal = set_up(
        tmp_path, [["whole"], [Sample("cut", 1, is_cut=True)]], framing=Framing(system="Be brief.", is_chat=True)
    )
    selection = Selection(cut=True)
    with journal:
        selected = select(prompts, journal, selection)
        [row] = rows(prompts, journal, selected, selection)
    assert selected.refused == {"cut": 1}
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]  # type: ignore[index,union-attr]


def test_two_tasks_weigh_what_they_should_in_a_batch(tmp_path):
    texts = [[f"<think>{'because ' * (5 + n)}</think> {n}"] for n in range(9)] + [["no thought, 9"]]
    prompts, journal = set_up(tmp_path, texts)
    selection = Selection(rationale=Rationale.of(THINK))
    tokenizer = load_tokenizer("pocket")
    share = 0.25
    with journal:
        selected = select(prompts, journal, selection)
        assert selected.refused == {"no rationale": 1}
        found = list(rows(prompts, journal, selected, selection, steps=Steps(tokenizer, share)))
    write_rows(tmp_path / "w.jsonl", found)
    assert [row["prompt"] for row in found[:2]] == ["[label] question 0\n", "[rationale] question 0\n"]
    assert [row["completion"] for row in found[:2]] == ["0", ("because " * 5).strip()]
    documents = list(read_documents(tmp_path / "w.jsonl"))
    assert documents[0].key == documents[1].key != documents[2].key, "both tasks of a prompt are held out together"
    corpus = tokenize(documents, tokenizer)
    batch = next(ordered_batches(corpus, length=64, rows=18))
    weights, of = batch.weights, batch.documents
    assert np.unique(weights).tolist() == np.unique(corpus.weights).tolist()
    assert len(np.unique(weights)) == 3
    is_rationale = torch.zeros_like(weights, dtype=torch.bool)
    for row in range(len(weights)):
        for document in of[row].unique().tolist():
            here = of[row] == document
            text = tokenizer.decode(batch.inputs[row][here])
            is_rationale[row] |= here & (torch.tensor("[rationale]" in text))
    total = weights.sum().item()
    assert weights[is_rationale].sum().item() / total == pytest.approx(share, abs=1e-4)
    assert total == pytest.approx(float((weights > 0).sum()), rel=1e-4)


def test_the_last_answer_of_a_chat_is_left_out_where_that_is_asked(tmp_path):
    turns = [
        {"role": role, "content": text} for role, text in (("user", "hello"), ("assistant", "hi"), ("user", "so?"))
    ]
    answer = {"role": "assistant", "content": "yes"}
    rows = [{"messages": turns}, {"messages": [*turns, answer]}, {"messages": [*turns, answer, answer]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, answered, twice = read_prompts(tmp_path / "p.jsonl", without_answers=True)
    assert asked.sent == answered.sent == twice.sent == tuple(turns)
    with pytest.raises(DataError, match="line 2: the last turn is the assistant's already"):
        read_prompts(tmp_path / "p.jsonl")
    for unasked in ([answer], [{"role": "system", "content": "be kind"}, answer]):
        (tmp_path / "p.jsonl").write_text(json.dumps({"messages": unasked}) + "\n")
        with pytest.raises(DataError, match="line 1: the last turn is the assistant's already"):
            read_prompts(tmp_path / "p.jsonl", without_answers=True)


def test_prompts_keep_their_ids(tmp_path):
    def ids(texts: list[str]) -> list[str]:
        (tmp_path / "p.jsonl").write_text("".join(json.dumps({"q": text, "a": "so: 7"}) + "\n" for text in texts))
        columns = PromptColumns(prompt="q", answer="a")
        found = read_prompts(tmp_path / "p.jsonl", columns=columns, framing=Framing(answer_pattern=r"so: (\d)"))
        assert {one.answer for one in found} == {"7"}
        return [one.id for one in found]

    before, after = ids(["a", "b", "a"]), ids(["new", "a", "b", "a", "a"])
    assert len(set(after)) == 5
    assert after[1:4] == before
