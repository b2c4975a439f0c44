"""Bad input: one message for a person, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from commands import Workshop
from safetensors import SafetensorError
from tiny_job import tiny_llama
from tiny_models import byte_tokenizer

from potstill import models


def write(workshop: Workshop, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (workshop.path / name).write_bytes(data)


def recipe(workshop: Workshop, old: str, new: str) -> None:
    text = (workshop.path / "recipe.toml").read_text()
    assert old in text
    (workshop.path / "recipe.toml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rows = 4", "row = 4", "did you mean `rows`"),
        ("rows = 4", 'rows = "4"', "training.rows"),
        ("steps = 4", "", "needs exactly one of `tokens`, `steps`, `epochs`"),
        ('"copy_layers"', '"copy_layer"', 'did you mean "copy_layers"'),
        ("layers = 2", "layers = 9", "9 layers can't be copied from a teacher of 4"),
        ("length = 24", "length = 4096", "longer than the context of LlamaForCausalLM (64 tokens)"),
        ('"text.jsonl"', '"txt.jsonl"', "did you mean text.jsonl"),
        ('"teacher"', '"nowhere/teacher/"', "nowhere/teacher"),
        ("held_out = 0.3", "held_out = 0.0001", "holds none of them out"),
        ("held_out = 0.3", "held_out = 0.999\nsearch = 0.0", "none to learn from"),
        ("[training]", "[training", "recipe.toml, line 13"),
    ],
)
def test_a_recipe_that_can_not_work(old, new, said, workshop):
    recipe(workshop, old, new)
    assert said in workshop.refused("distill", "recipe.toml").replace("\n", " ")
    assert not (workshop.path / "runs" / "recipe" / "student").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": \n', "text.jsonl, line 2 is not JSON"),
        ('{"txt": "a"}\n', "did you mean 'txt' for text"),
        ("", "holds no text"),
        (b'{"text": "\xff"}\n', "is not UTF-8"),
    ],
)
def test_text_that_can_not_be_read(content, said, workshop):
    write(workshop, "text.jsonl", content)
    if "completion" in str(
        content
    ):  # an end mark is all there is to learn: not a mistake for the reader, but for the split
        assert workshop.run("distill", "recipe.toml").exit_code in (0, 2)
        return
    assert said in workshop.refused("distill", "recipe.toml")
    assert not (workshop.path / "runs" / "recipe").exists()
    search = ("compress", "teacher", "-d", "text.jsonl", "--keep", "90%", "-s", "training.length=24", "-o", "search")
    assert said in workshop.refused(*search)
    assert not (workshop.path / "search").exists()


def test_only_a_name_that_is_near_is_offered(workshop):
    write(workshop, "prompts.jsonl", "")
    write(workshop, "prompts.toml", "")
    assert "did you mean" not in workshop.refused("evaluate", "teacher", "--data", "nothing.jsonl")
    assert "did you mean prompts.jsonl?" in workshop.refused("evaluate", "teacher", "--data", "promts.jsonl")
    assert "did you mean" not in workshop.refused("distill", "nothing.toml")
    assert "did you mean prompts.toml?" in workshop.refused("distill", "promts.toml")


def test_columns_can_be_named_without_a_recipe_too(workshop):
    write(workshop, "text.jsonl", '{"question": "a", "answer": "b"}\n')
    assert "Name the columns so; a recipe may say instead" in workshop.refused(
        "evaluate", "teacher", "--data", "text.jsonl"
    )


def test_a_chat_without_an_answer_has_nothing_to_learn(workshop):
    tokenizer = byte_tokenizer(chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer.save_pretrained(workshop.path / "teacher")
    write(workshop, "text.jsonl", '{"messages": [{"role": "user", "content": "hello"}]}\n' * 9)
    assert "none of the" in workshop.refused("preview", "recipe.toml")


def test_samples_longer_than_the_context_are_counted_aloud(workshop):
    line = '{{"prompt": "{0}?", "completion": "{1}"}}\n'
    write(workshop, "text.jsonl", "".join(line.format(n, "answer " * 9) for n in range(30)))
    result = workshop.run("distill", "recipe.toml")
    assert result.exit_code == 0, result.output
    assert "samples are longer than 24 tokens" in result.output.replace("\n", " ")


def test_vocabularies_that_differ_are_refused_with_the_first_difference(workshop):
    other = byte_tokenizer()
    vocabulary = other.backend_tokenizer.to_str().replace('"a":64', '"SWAP":64').replace('"b":65', '"a":65')
    assert vocabulary != other.backend_tokenizer.to_str()
    tiny_llama(1).save_pretrained(workshop.path / "student")
    other.save_pretrained(workshop.path / "student")
    (workshop.path / "student" / "tokenizer.json").write_text(vocabulary.replace('"SWAP":64', '"b":64'))
    recipe(workshop, 'kind = "copy_layers"\nlayers = 2', 'kind = "model"\nmodel = "student"')
    assert "differ first at id 64 ('a' / 'b')" in workshop.refused("distill", "recipe.toml")


def test_a_teacher_with_nan_is_refused_before_anything_is_trained(workshop):
    teacher = tiny_llama()
    teacher.lm_head.weight.data[5] = float("nan")
    teacher.save_pretrained(workshop.path / "teacher")
    assert "NaN or infinite logits" in workshop.refused("distill", "recipe.toml")


def test_the_folder_of_another_run_is_left_alone(workshop):
    assert workshop.run("distill", "recipe.toml", "-o", "run").exit_code == 0
    before = (workshop.path / "run" / "scores.json").read_bytes()
    said = workshop.refused("distill", "recipe.toml", "-o", "run", "--set", "training.learning_rate=0.5")
    assert "belongs to another run: its recipe says `learning_rate = 0.001`, this one `learning_rate = 0.5`" in said
    assert (workshop.path / "run" / "scores.json").read_bytes() == before
    assert "not a potstill run" in workshop.refused("distill", "recipe.toml", "-o", ".")


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_says_so_and_the_same_command_goes_on(failure, workshop, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr("potstill.training.checkpoint.save_file", full)
        said = workshop.refused("distill", "recipe.toml")
    assert "No space left on device" in said
    assert "start the same command again" in said
    assert (workshop.path / "runs" / "recipe" / "measurements" / "untouched.npz").exists()
    assert workshop.run("distill", "recipe.toml").exit_code == 0


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_advised_on(failure, workshop, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("potstill.training.learner.hidden_states", fail)
    said = workshop.refused("distill", "recipe.toml")
    assert "training.micro_rows = 1" in said
    assert "gradient_checkpointing" in said


def test_a_defect_of_ours_keeps_its_traceback(workshop, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(models, "load_tokenizer", broken)
    result = workshop.run("preview", "recipe.toml")
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def test_an_interruption_says_that_the_rest_is_kept(workshop, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("potstill.training.learner.hidden_states", stop)
    result = workshop.run("distill", "recipe.toml")
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


@pytest.mark.parametrize("name", ["missing.toml", "recipe.tml"])
def test_a_recipe_that_is_not_there(name, workshop):
    said = workshop.refused("distill", Path(name))
    assert f"there is no recipe {name}" in said
    assert "recipe.toml" in said


def test_a_mended_text_or_recipe_is_taken_up_in_the_same_folder(workshop):
    good = (workshop.path / "text.jsonl").read_text()
    write(workshop, "text.jsonl", good + '{"text": \n')
    assert "is not JSON" in workshop.refused("distill", "recipe.toml")
    write(workshop, "text.jsonl", good)
    assert "holds none of them out" in workshop.refused("distill", "recipe.toml", "-s", "data.held_out=0.0001")
    assert workshop.run("distill", "recipe.toml").exit_code == 0


def test_a_run_inside_its_own_text_is_refused(workshop):
    (workshop.path / "notes").mkdir()
    write(workshop, "notes/a.txt", "hello")
    said = workshop.refused("distill", "recipe.toml", "-s", "data.source=notes", "-o", "notes/run")
    assert "lies inside the text" in said


def test_evaluate_says_at_once_what_it_can_not_do(workshop):
    words = ["evaluate", "teacher", "-d", "text.jsonl"]
    assert "no folder missing" in workshop.refused(*words, "-o", "missing/scores.json")
    assert "longer than the context of LlamaForCausalLM (64 tokens)" in workshop.refused(*words, "--length", "512")
    assert "raise --held-out" in workshop.refused(*words, "--length", "24", "--held-out", "0.0")


def test_brackets_in_names_are_no_markup(workshop):
    (workshop.path / "notes[").mkdir()
    (workshop.path / "text.jsonl").rename(workshop.path / "notes[" / "b].jsonl")
    result = workshop.run("distill", "recipe.toml", "-s", 'data.source="notes[/b].jsonl"', "-o", "run[x]")
    assert result.exit_code == 0, result.output
    assert "notes[/b].jsonl" in result.output
    assert "run[x]/student" in result.output


@pytest.mark.parametrize("verb", ["check", "distill"])
def test_check_refuses_what_distill_refuses(verb, workshop):
    assert "longer than the context" in workshop.refused(verb, "recipe.toml", "-s", "training.length=4096")
    trackers = 'training.trackers=["wandb"]'
    assert "needs the package 'wandb'" in workshop.refused(verb, "recipe.toml", "-s", trackers)


def test_check_knows_every_kind_of_student(workshop):
    fresh = 'student={kind="fresh", changes={num_hidden_layers=1}}'
    assert workshop.run("check", "recipe.toml", "-s", fresh).exit_code == 0
    existing = 'student={kind="model", model="teacher"}'
    assert workshop.run("check", "recipe.toml", "-s", existing).exit_code == 0
