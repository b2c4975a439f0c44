"""A student tried as a draft from the command line: figures, a page, and refusals."""

from __future__ import annotations

import json

import torch
from commands import Workshop
from tiny_models import byte_tokenizer
from transformers import AutoModelForCausalLM

DRAFT = ("draft", "teacher", "teacher", "--new-tokens", "8", "--prompt-tokens", "4", "--longest", "3")


def test_a_draft_is_predicted_and_measured(workshop: Workshop):
    result = workshop.run(*DRAFT, "--prompts", "text.jsonl", "--most", "3", "--lengths", "2", "--out", "draft")
    assert result.exit_code == 0, result.output
    found = json.loads((workshop.path / "draft" / "draft.json").read_text())
    greedy, drawn = found["trials"]
    assert (greedy["temperature"], drawn["temperature"]) == (0.0, 1.0)
    assert greedy["rate"]["value"] == 1.0
    assert drawn["rate"]["value"] > 0.9999
    assert all(one["draft_acceptance_rate"] == 1.0 for one in greedy["measured"])
    assert all(one["same"] == one["texts"] == 3 for one in greedy["measured"])
    assert [one["length"] for one in greedy["expected"]] == [1, 2, 3]
    page = (workshop.path / "draft" / "report.html").read_text()
    assert "Speed-up by draft length" in page


def test_both_models_may_be_held_in_bfloat16(workshop: Workshop):
    narrow = ("--prompts", "text.jsonl", "--most", "2", "--lengths", "2", "--temperature", "0", "--dtype", "bfloat16")
    result = workshop.run(*DRAFT, *narrow, "--out", "draft")
    assert result.exit_code == 0, result.output
    found = json.loads((workshop.path / "draft" / "draft.json").read_text())
    assert found["dtype"] == "bfloat16"
    [greedy] = found["trials"]
    assert greedy["rate"]["value"] == 1.0
    assert workshop.run(*DRAFT, *narrow[:-1], "float8", "--out", "draft").exit_code == 2


def test_prompts_from_rows_with_domains(workshop: Workshop):
    rows = [{"prompt": f"{name} number {number}", "domain": name} for name in ("sea", "land") for number in range(2)][
        :3
    ]
    (workshop.path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = workshop.run(*DRAFT, "--prompts", "prompts.jsonl", "--temperature", "0", "--out", "draft")
    assert result.exit_code == 0, result.output
    assert "NaN" not in (workshop.path / "draft" / "draft.json").read_text()
    [greedy] = json.loads((workshop.path / "draft" / "draft.json").read_text())["trials"]
    assert set(greedy["domains"]) == {"sea", "land"}
    assert greedy["domains"]["land"]["low"] is None  # of one text


def test_heads_of_one_family_that_are_padded_differently(workshop: Workshop):
    model = AutoModelForCausalLM.from_pretrained("teacher")
    greedy = ("--prompts", "text.jsonl", "--most", "2", "--lengths", "2", "--temperature", "0")
    with torch.no_grad():
        for name, rows in (("padded", 300), ("other", 320)):
            model.resize_token_embeddings(rows, mean_resizing=False)
            model.lm_head.weight[257:] = 50 * model.lm_head.weight[:1]  # padding that would often be likeliest
            model.save_pretrained(name)
            byte_tokenizer().save_pretrained(name)
    for pair in (("teacher", "padded"), ("padded", "other")):
        result = workshop.run("draft", *pair, *DRAFT[3:], *greedy, "--out", "draft")
        assert result.exit_code == 0, result.output
        [found] = json.loads((workshop.path / "draft" / "draft.json").read_text())["trials"]
        assert found["rate"]["value"] == 1.0
        assert all(one["same"] == one["texts"] == 2 for one in found["measured"])


def test_what_makes_no_sense_is_refused(workshop: Workshop):
    for words, message in (
        (("--lengths", "two"), "whole numbers"),
        (("--lengths", "9"), "between 1 and --longest"),
        (("--teacher-gguf", "t.gguf"), "needs both files"),
        (("--teacher-gguf", "t.gguf", "--student-gguf", "s.gguf"), "there is no file t.gguf"),
        (("--temperature", "1e-40"), "--temperature is 0"),
        (("--new-tokens", "5000"), "longer than the context"),
    ):
        assert message in workshop.refused(*DRAFT, "--prompts", "text.jsonl", *words, "--out", "draft")
    (workshop.path / "empty.jsonl").write_text("\n")
    assert "holds no rows" in workshop.refused(*DRAFT, "--prompts", "empty.jsonl", "--out", "draft")
    assert "nowhere.jsonl" in workshop.refused(*DRAFT, "--prompts", "nowhere.jsonl", "--out", "draft")
    assert not (workshop.path / "draft").exists()


def test_tokenizers_are_compared_before_weights_are_read(workshop: Workshop):
    AutoModelForCausalLM.from_pretrained("teacher").save_pretrained("stranger")
    byte_tokenizer().save_pretrained("stranger")
    spelling = workshop.path / "stranger" / "tokenizer.json"
    table = json.loads(spelling.read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    spelling.write_text(json.dumps(table))
    (workshop.path / "stranger" / "model.safetensors").write_bytes(b"nothing that loads")
    said = workshop.refused("draft", "teacher", "stranger", *DRAFT[3:], "--prompts", "text.jsonl", "--out", "draft")
    assert "differ first" in said
    assert "safetensors" not in said
    assert not (workshop.path / "draft").exists()
