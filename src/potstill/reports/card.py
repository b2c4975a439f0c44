"""The student's model card: README.md with what the Hugging Face hub reads from it (base_model, licence, results), and what people do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from potstill.evaluation.measuring import written_whole
from potstill.reports.sentences import compression_verdict

Facts = Mapping[str, Any]
_METRICS = {"accuracy": "accuracy", "perplexity": "perplexity", "bits_per_byte": "bits_per_byte"}


def write_card(folder: Path, found: Facts) -> Path:
    """README.md in the student's folder, from the findings of the run in `folder`."""
    path = folder / "student" / "README.md"
    with written_whole(path) as part:
        part.write_text(card(found, licence=licence_of(str(found["teacher"])), steps=_recipe_facts(folder)), "utf-8")
    return path


def card(found: Facts, *, licence: str | None, steps: Mapping[str, str]) -> str:
    """The whole text."""
    scores = found["models"]["distilled"]["scores"]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name=steps.get("source", "held-out text"),
            metric_type=_METRICS[metric],
            metric_value=scores[metric]["value"],
            metric_name=f"next-token {metric.replace('_', ' ')}",
        )
        for metric in _METRICS
        if metric in scores and scores[metric]["value"] is not None
    ]
    teacher = str(found["teacher"])
    data = ModelCardData(
        base_model=teacher
        if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", teacher) and not Path(teacher).exists()
        else None,
        base_model_relation="finetune" if "/" in teacher else None,
        license=licence or "other",
        license_name=None if licence else "that-of-the-teacher",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["knowledge-distillation", "pruning", "potstill"],
        model_name=f"student of {Path(teacher).name}",
        eval_results=results,
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(_body(found, licence, steps)) + "\n"


def licence_of(teacher: str) -> str | None:
    """The licence in the teacher's own card, if it lies in a folder and has one."""
    path = Path(teacher).expanduser() / "README.md"
    if not path.is_file():
        return None
    match = re.search(r"^license:\s*([\w.-]+)\s*$", path.read_text("utf-8", "replace"), re.MULTILINE)
    return match[1] if match else None


def _body(found: Facts, licence: str | None, steps: Mapping[str, str]) -> Iterator[str]:
    text, sizes, teacher = found["text"], found["sizes"], str(found["teacher"])
    yield f"# A student of {Path(teacher).name}\n"
    yield f"{compression_verdict(found)}\n"
    yield "## How it was made\n"
    yield (
        f"Cut from [{teacher}] as `{found['chosen']}` ({_shape(found)}) and distilled from it with potstill: "
        f"{text['read']:,} tokens of {steps.get('source', 'its text')} read, {text['documents']:,} documents; forward KL to the teacher's "
        f"stored distribution. {_millions(sizes['distilled'])}; the teacher has {_millions(sizes['teacher'])}.\n"
    )
    yield "## How good it is\n"
    yield f"On {text['judged_by']['documents']:,} held-out documents ({text['judged_by']['tokens']:,} tokens), 95 % intervals:\n"
    yield "| model | next token right | perplexity |\n| --- | ---: | ---: |"
    for name, model in found["models"].items():
        yield f"| {name.replace('_', ' ')} | {_cell(model, 'accuracy', '{:.1%}')} | {_cell(model, 'perplexity', '{:.2f}')} |"
    yield "\n## How to load it\n"
    yield (
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n```\n'
    )
    yield "## Licence and limits\n"
    yield (
        (
            f"The teacher's licence is carried over: {licence}. "
            if licence
            else "The teacher's licence was not found; it holds for this model too. "
        )
        + "It was measured on text like the one it learned from, and on nothing else: on other text, expect it to fall "
        "behind its teacher further."
    )


def _millions(size: Facts) -> str:
    return f"{size['total'] / 1e6:,.2f} M parameters, {size['non_embedding'] / 1e6:,.2f} M of them not embeddings"


def _shape(found: Facts) -> str:
    shape = found["shape"]
    parts = [f"{len(found['lineage'])} of {found['teacher_layers']} layers"]
    parts += [f"{name} {shape[name]}" for name in ("hidden", "ffn", "heads", "kv_heads") if shape[name] is not None]
    return ", ".join(parts)


def _cell(model: Facts, metric: str, form: str) -> str:
    one = model["scores"].get(metric)
    if one is None or one["value"] is None:
        return "–"
    if one["low"] is None:
        return form.format(one["value"])
    return f"{form.format(one['value'])} ({form.format(one['low'])} to {form.format(one['high'])})"


def _recipe_facts(folder: Path) -> dict[str, str]:
    text = (folder / "recipe.toml").read_text("utf-8")
    match = re.search(r"^source = (.+)$", text, re.MULTILINE)
    if match is None:
        return {}
    sources = json.loads(match[1])
    names = [sources] if isinstance(sources, str) else sources
    return {"source": ", ".join(Path(name).name for name in names)}
