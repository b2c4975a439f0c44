"""An export's own page and files: sizes by part, the manifest, a Modelfile, lines to copy."""

from __future__ import annotations

import json
import re
import shlex
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models import layers_path

PARTS = ("blocks", "embedding", "head", "rest")
# What the Hugging Face hub reads.
_FRONT = ("---", "pipeline_tag: text-generation", "tags: [knowledge-distillation, potstill]", "---", "")


def bytes_on_disk(folder: Path, model: PreTrainedModel) -> dict[str, int]:
    """Bytes of the weights in a folder's safetensors by part of the model: blocks, embedding, head, rest."""
    blocks, head = f"{layers_path(model)}.", model.get_output_embeddings()
    embeddings = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    heads = [name for name, module in model.named_modules() if module is head]
    found: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for name, size in _tensors_in(path):
            owner = name.rpartition(".")[0]
            part = "blocks" if name.startswith(blocks) else "embedding" if owner in embeddings else "rest"
            found["head" if owner in heads else part] += size
    return dict(found)


def _tensors_in(path: Path) -> list[tuple[str, int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        said = json.loads(file.read(length))
    return [
        (name, one["data_offsets"][1] - one["data_offsets"][0]) for name, one in said.items() if name != "__metadata__"
    ]


def modelfile(gguf: Path, *, context: int) -> str:
    """What Ollama makes a model from: the file beside it, whose own chat template it reads."""
    return f"FROM ./{gguf.name}\nPARAMETER num_ctx {context}\n"


def run_lines(to: str, folder: Path, weights: Path, *, context: int) -> dict[str, str]:
    """By engine, the line that runs the export."""
    place, file = shlex.quote(str(folder)), shlex.quote(str(weights))
    if to == "gguf":
        name = (
            re.sub(r"[^a-z0-9._]+", "-", weights.stem.lower()).strip("-._") or "student"
        )  # what Ollama takes as a name
        return {
            "llama.cpp": f"llama-server -m {file} -c {context} --jinja",
            "Ollama": f"{'' if folder == Path() else f'cd {place} && '}ollama create {name} -f Modelfile && ollama run {name}",
            "LM Studio": f"lms import {file}",
        }
    load = (
        f"from transformers import AutoModelForCausalLM; model = AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    )
    return {
        "vLLM": f"vllm serve {place} --max-model-len {context}",
        "transformers": f"python -ic {shlex.quote(load)}",
    }


def page(facts: Mapping[str, object], lines: Mapping[str, str]) -> str:
    """README.md: what it is, how near it is to the student, how it is run."""
    if not isinstance(found := facts["scores"], Mapping) or not isinstance(sizes := facts["bytes"], Mapping):
        raise ModelError("an export's page is made of its scores and its sizes")
    verdict = "It is near enough to the student." if facts["good"] else f"**It misses its bar**: {facts['why']}."
    rows = [f"| {name} | {value:.4g} |" for name, value in found.items()]
    parts = [f"| {part} | {size / 1e6:,.2f} |" for part, size in sizes.items()]
    return "\n".join(
        [
            *_FRONT,
            f"# {facts['name']}, {facts['format']}",
            "",
            f"Exported by potstill from `{facts['source']}` and measured again as its engine computes it ({facts['engine']}). {verdict}",
            "",
            f"| on {facts['predictions']:,} predictions | |",
            "|---|---:|",
            *rows,
            "",
            *_bars(facts),
            "| weights | MB |",
            "|---|---:|",
            *parts,
            "",
            "## Run it",
            "",
            *(f"{engine}:\n\n```sh\n{line}\n```\n" for engine, line in lines.items()),
        ]
    )


def _bars(facts: Mapping[str, object]) -> list[str]:
    """What the export reaches of the run's bars; a value that its own text can't show is not judged."""
    if not isinstance(bars := facts["bars"], list) or not bars:
        return []
    rows = [
        f"| {one['bar']} | {'not judged' if one['value'] is None else format(one['value'], '.4g')} |" for one in bars
    ]
    return ["| the run's bar | reached |", "|---|---:|", *rows, ""]
