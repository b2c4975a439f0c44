"""What was written is read back and measured; near enough is good, and other tokens are an error."""

from dataclasses import replace

import numpy as np
import pytest
from small_tokenizers import TEXTS, byte_level
from tiny_models import GROUPED, tiny_model

from potstill.data import Document, Part, tokenize
from potstill.engines import LlamaServer
from potstill.errors import ModelError
from potstill.evaluation import score
from potstill.runs.exporting import RunBar, Wanted, check_tokens, judge_export, measure_alone, rescore, write_export

SIZED = GROUPED | {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", settings=SIZED, spread=10.0)


@pytest.fixture(scope="module")
def corpus():
    return tokenize([Document(f"text {n}", (Part(text, True),)) for n, text in enumerate(TEXTS * 2)], byte_level())


@pytest.fixture(scope="module")
def alone(model, corpus):
    return measure_alone(model, corpus, length=32)


@pytest.mark.parametrize(
    ("wanted", "most"),
    [
        (Wanted("huggingface"), 1e-6),
        (Wanted("int8"), 0.01),
        (Wanted("int4", group=32), 3.0),
        (Wanted("gguf", "f16"), 1e-3),
        (Wanted("gguf", "q8_0"), 0.05),
    ],
)
def test_an_export_is_measured_beside_its_student(model, corpus, alone, wanted, most, tmp_path):
    weights = write_export(model, byte_level(), tmp_path / "out", wanted, name="tiny")
    found = rescore(model, byte_level(), weights, wanted, corpus, length=32, alone=alone, threads=1)
    kl = score(found.export, "kl_to_teacher").value
    assert 0 <= kl < most
    assert score(found.student, "kl_to_teacher").value < 1e-9
    assert (found.engine_kl is None) == (wanted.format != "gguf")
    assert set(found.bytes) >= {"blocks", "embedding"}
    assert all(speed.prefill_tokens_per_second > 0 for speed in found.speeds.values())
    # Random weights are no student: noise goes further than in a trained one.
    judged = judge_export(replace(wanted, most_kl=1e-9), found)
    assert judged.good == (wanted.name in ("huggingface", "f16") or (wanted.name != "int4" and kl <= 0.01))


def test_the_runs_bars_are_carried_over(model, corpus, alone, tmp_path):
    wanted = Wanted("huggingface")
    weights = write_export(model, byte_level(), tmp_path / "out", wanted, name="tiny")
    found = rescore(model, byte_level(), weights, wanted, corpus, length=32, alone=alone)
    half = 0.5 * found.student.tokens  # random weights are hardly ever right
    found = replace(found, student=replace(found.student, hits=half), export=replace(found.export, hits=half))
    bar = RunBar("at least 90% of the teacher's accuracy", "accuracy", 0.9, False, 0.95)
    assert judge_export(wanted, found, (bar,)).bars == ((bar.text, pytest.approx(0.95)),)
    assert judge_export(wanted, found, (replace(bar, metric="agreement"),)).bars == ((bar.text, None),)
    worse = replace(found.export, hits=0.9 * found.export.hits)
    judged = judge_export(wanted, replace(found, export=worse), (bar,))
    assert not judged.good
    assert "reaches 0.855 where the run's bar is at least 90%" in judged.why
    bits = RunBar("at most 3 bits per byte", "bits", 3.0, True, 2.99)
    longer = replace(found.export, nll=found.export.nll * 1.1)
    assert judge_export(wanted, found, (bits,)).good
    assert not judge_export(wanted, replace(found, export=longer), (bits,)).good


def test_an_engines_own_probabilities_count(model, corpus, alone, tmp_path):
    wanted = Wanted("huggingface")
    weights = write_export(model, byte_level(), tmp_path / "out", wanted, name="tiny")
    found = replace(
        rescore(model, byte_level(), weights, wanted, corpus, length=32, alone=alone), engine_kl=float(np.nan)
    )
    assert not judge_export(wanted, found).good
    assert judge_export(wanted, replace(found, engine_kl=1e-5)).good


def test_other_tokens_are_an_error_with_the_text(model, tmp_path):
    weights = write_export(model, byte_level("gpt-2"), tmp_path / "out", Wanted("gguf", "f16"), name="tiny")
    with LlamaServer(weights, context=32, threads=1) as server:
        check_tokens(server, byte_level("gpt-2"), TEXTS)
        with pytest.raises(ModelError, match=r"llama.cpp cuts .The quick .* into other tokens"):
            check_tokens(server, byte_level("qwen2"), TEXTS)


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", {"max_position_embeddings": 48}), ("mistral", {"sliding_window": 48})]
)
def test_a_file_is_measured_up_to_its_whole_context(family, settings, corpus, tmp_path):
    small, wanted = tiny_model(family, settings=SIZED | settings), Wanted("gguf", "f16")
    weights = write_export(small, byte_level(), tmp_path / "out", wanted, name="tiny")
    alone = measure_alone(small, corpus, length=48)
    found = rescore(small, byte_level(), weights, wanted, corpus, length=48, alone=alone, threads=1)
    assert score(found.export, "kl_to_teacher").value < 1e-3
    with pytest.raises(ModelError, match="a context of 48 tokens"):
        rescore(small, byte_level(), weights, wanted, corpus, length=49, alone=alone, threads=1)
