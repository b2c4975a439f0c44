"""What a model goes on from: prompts of samples, beginnings of plain text, what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_models import CHAT_TEMPLATE, byte_tokenizer

from potstill.data import Document, Part, prompts_of, read_documents, tokenize
from potstill.errors import DataError


def plain(text: str) -> Document:
    return Document(text, (Part(text, True),))


def sample(prompt: str, completion: str) -> Document:
    return Document(prompt + completion, (Part(prompt, False), Part(completion, True)), is_sample=True)


def said(prompts, tokenizer) -> list[str]:
    return [tokenizer.decode(prompts[number]) for number in range(len(prompts))]


def test_a_prompt_is_what_stands_before_the_completion():
    tokenizer = byte_tokenizer()
    corpus = tokenize([sample("2 + 2 =", " 4"), sample("why?", ""), plain("abcdefghij"), plain("xyz")], tokenizer)
    prompts = prompts_of(corpus, tokens=4, longest=20)
    # Of plain text at most half: "xyz" with its end has 4 tokens.
    assert said(prompts, tokenizer) == ["2 + 2 =", "why?", "abcd", "xy"]
    assert prompts.documents.tolist() == [0, 1, 2, 3]


def test_a_chat_goes_up_to_its_last_answer(tmp_path):
    tokenizer = byte_tokenizer(chat_template=CHAT_TEMPLATE + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    messages = [{"role": role, "content": content} for role, content in turns]
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": messages}))
    corpus = tokenize(read_documents(file, tokenizer=tokenizer), tokenizer)
    [text] = said(prompts_of(corpus, tokens=4, longest=500), tokenizer)
    assert text == tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)


def test_long_prompts_and_documents_without_any_are_left_out():
    corpus = tokenize([sample("a long prompt", "x"), sample("short", "x"), plain("")], byte_tokenizer())
    prompts = prompts_of(corpus, tokens=4, longest=6)
    assert prompts.documents.tolist() == [1]
    assert prompts.num_too_long == 1
    with pytest.raises(DataError, match=r"2 have prompts of more than 3 tokens.*Raise training.length"):
        prompts_of(corpus, tokens=4, longest=3)


def test_ids_are_those_of_the_text():
    corpus = tokenize([plain("abcdefgh"), sample("abc", "d")], byte_tokenizer())
    prompts = prompts_of(corpus, tokens=3, longest=9)
    assert all(np.array_equal(prompts[n], corpus.document(n)[0][:3]) for n in range(2))
