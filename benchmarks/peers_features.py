"""What potstill and its peers have, cell by cell, each with its evidence in the installed source: writes peers_features.md.

    .venv/bin/python benchmarks/peers_features.py               (seconds; after `make bench-setup` and what peers.md lists under "Not run")

Nothing of a peer is run or imported here. A cell is a word, and either places in the package (`file::name`; the file must hold the name) or
words that no source file of the package holds. A place that isn't there, or a word that is, ends the script. That a thing is there says
nothing of how well it works; that no word was found, nothing of what can be built upon the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {
    "potstill": "potstill",
    "TRL": "trl",
    "DistillKit": "distillkit",
    "Model-Optimizer": "modelopt",
    "torchdistill": "torchdistill",
}
DISTRIBUTIONS = {"modelopt": "nvidia-modelopt"}


@dataclass(frozen=True)
class Cell:
    """`says` of a package: yes, – or a few words. `at`: places that show it. `without`: words (regular expressions) that nothing holds."""

    says: str
    at: tuple[str, ...] = ()
    without: str = ""
    because: str = ""


def yes(*at: str, says: str = "yes", because: str = "") -> Cell:
    return Cell(says, at, because=because)


def no(without: str, because: str = "") -> Cell:
    return Cell("–", without=without, because=because)


# In the order of PACKAGES.
FEATURES: dict[str, tuple[Cell, ...]] = {
    "whole distributions of a live teacher, on a corpus": (
        yes("teachers/live.py::LiveTeacher"),
        yes("experimental/gkd/gkd_trainer.py::lmbda", says="experimental", because="GKD with `lmbda=0`"),
        yes("signals.py::OnlineSignalSource"),
        yes("torch/distill/plugins/huggingface.py::KDTrainer"),
        yes(
            "losses/mid_level.py::KDLoss",
            says="classes",
            because="no tokenizer in the package: a loss for whatever model is brought",
        ),
    ),
    "soft labels on disk": (
        yes("soft_labels/store.py::Store"),
        no(r"(stored|cached|saved|offline)[ _](teacher|logit|soft)"),
        yes(
            "signals.py::OfflineSignalSource",
            "sample_logits_vllm.py::sample_logits",
            "compression/compressor.py::LogprobCompressor",
        ),
        yes(
            "torch/speculative/eagle/utils.py::OfflineSupervisedDataset",
            says="for drafts",
            because="hidden states for EAGLE and DFlash",
        ),
        no(r"(stored|cached|saved|offline)[ _](teacher|logit|soft)"),
    ),
    "text that the student writes (on-policy)": (
        yes("training/on_policy.py::OnPolicy", "models/generating.py::complete", says="yes, without vLLM"),
        yes(
            "trainer/distillation_trainer.py::DistillationTrainer",
            "trainer/distillation_trainer.py::VLLMGeneration",
            "trainer/distillation_trainer.py::_tool_call_loop",
            says="yes, with vLLM, tools, images",
        ),
        no(r"on[_-]policy"),
        no(r"on[_-]policy"),
        no(r"on[_-]policy"),
    ),
    "hidden states, attention": (
        yes("losses/features.py::FeatureLoss"),
        no(
            r"output_attentions|hidden_state_loss|feature_loss",
            because="the last hidden state is read for its logits alone",
        ),
        yes("lossfuncs/hidden_state.py::HiddenStateCosineLoss", "lossfuncs/hidden_state.py::HiddenStateMSELoss"),
        yes("torch/distill/config.py::KDLossConfig", "torch/distill/plugins/megatron.py::HiddenStateCosineLoss"),
        yes("core/forward_hook.py::ForwardHookManager", "losses/mid_level.py::ATLoss", says="yes, some 25 losses"),
    ),
    "a teacher with another tokenizer": (
        yes("teachers/translated.py::TranslatedTeacher"),
        yes("experimental/gold/gold_trainer.py::ULDLoss", says="experimental", because="GOLD"),
        no(r"cross[ _-]tokeni|\buld\b"),
        no(r"cross[ _-]tokeni"),
        no(r"tokeni[sz]er"),
    ),
    "several teachers": (
        yes("teachers/mixture.py::MixtureTeacher"),
        yes(
            "experimental/async_distillation/async_distillation_config.py::teacher_server_urls",
            says="experimental",
            because="one for each row",
        ),
        no(r"multi[ _-]?teacher"),
        no(r"multi[ _-]?teacher"),
        no(r"multi[ _-]?teacher"),
    ),
    "cuts the student out of its teacher": (
        yes("students/prune.py::prune"),
        no(r"\bprun(e|ing)\b"),
        no(r"\bprun(e|ing)\b"),
        yes(
            "torch/prune/plugins/mcore_minitron.py::MCoreMinitronSearcher",
            "torch/prune/fastnas.py::FastNASModeDescriptor",
            because="Minitron's way wants Megatron-Core",
        ),
        no(r"\bprun(e|ing)\b"),
    ),
    "searches the size": (
        yes("search/smallest.py::next_move", says="smallest that clears a bar of quality"),
        no(r"\bprun(e|ing)\b", because="sizes are given"),
        no(r"\bprun(e|ing)\b", because="sizes are given"),
        yes(
            "torch/prune/plugins/mcore_minitron.py::score_func",
            "torch/puzzletron/mip/run_puzzle.py::target_latency_seconds",
            says="best within a bound of size, memory, latency",
        ),
        no(r"\bprun(e|ing)\b", because="sizes are given"),
    ),
    "scores with intervals": (
        yes("evaluation/comparison.py::compare"),
        no(r"\bbootstrap|confidence interval"),
        no(r"\bbootstrap|confidence interval"),
        no(r"\bbootstrap_|confidence interval"),
        no(r"\bbootstrap|confidence interval"),
    ),
    "learns through the rounding of few bits": (
        yes("recipe/four_bits.py::Int4Table", says="int4"),
        yes("trainer/distillation_trainer.py::BitsAndBytesConfig", says="LoRA on 4 bits"),
        no(r"fake_?quant|qat\b"),
        yes("torch/quantization/plugins/transformers_trainer.py::QADTrainer", says="int4, NVFP4, FP8 and more"),
        no(r"fake_?quant|qat\b"),
    ),
    "exports in few bits, or for other engines": (
        yes("export/gguf_file.py::save_gguf", says="GGUF, int4, int8"),
        no(r"\bgguf\b"),
        no(r"\bgguf\b"),
        yes(
            "torch/export/unified_export_hf.py::export_hf_checkpoint",
            "torch/export/model_config_export.py::export_tensorrt_llm_checkpoint",
            says="vLLM, TensorRT-LLM",
        ),
        no(r"\bgguf\b|onnx"),
    ),
    "drafts for speculative decoding": (
        yes("drafts/acceptance.py::acceptance", says="measures, predicts"),
        no(r"draft_model|draft_token", because="its server for rollouts may use one: `speculative_config`"),
        no(r"draft_model|speculative"),
        yes("torch/speculative/eagle/eagle_model.py::EagleModel", says="trains EAGLE, Medusa, DFlash"),
        no(r"draft_model|speculative"),
    ),
    "a router: student first, teacher if need be": (
        yes("routing/policy.py::Policy", "serving/app.py::"),
        no(r"cascade|deferral"),
        no(r"cascade|deferral|fastapi"),
        no(r"deferral"),
        no(r"cascade|deferral|fastapi"),
    ),
    "LoRA students": (
        yes("students/lora.py::"),
        yes("trainer/distillation_trainer.py::peft_config"),
        no(r"\bpeft\b|lora"),
        yes("torch/quantization/plugins/transformers_trainer.py::lora"),
        no(r"\bpeft\b|lora"),
    ),
    "images": (
        yes("training/classifiers.py::train_classifier", says="classifiers, in Python"),
        yes("trainer/distillation_trainer.py::_tokenize_prompts", says="vision-language"),
        no(r"pixel_values"),
        yes("torch/export/plugins/mcore_qwen3vl.py::", "torch/fastgen/config.py::", says="any torch module; diffusion"),
        yes("models/official.py::", "models/classification/resnet.py::", says="its field"),
    ),
    "engines of large scale": (
        yes("models/processes.py::", says="DDP, FSDP2 (two processes tried); Ray for labels and text"),
        yes(
            "trainer/distillation_trainer.py::DEEPSPEED",
            "generation/vllm_generation.py::VLLMGeneration",
            says="FSDP, DeepSpeed, vLLM",
        ),
        yes("sample_logits_vllm.py::tensor_parallel_size", says="Accelerate; vLLM for labels"),
        yes("torch/distill/plugins/megatron.py::LogitsKLLoss", says="Megatron (tensor, pipeline, expert)"),
        yes("core/distillation.py::accelerator", says="DDP, Accelerate"),
    ),
}


@cache
def sources(package: str) -> dict[str, str]:
    """The package's Python files by their paths in it, read and not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed here")
    root = Path(next(iter(found.submodule_search_locations)))
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}


def evidence(package: str, cell: Cell) -> str:
    """The cell's evidence in words, checked; ends the script where it doesn't hold."""
    files = sources(package)
    for place in cell.at:
        path, _, name = place.partition("::")
        if path not in files or name not in files[path]:
            raise SystemExit(f"{package} has no {place}")
    if cell.without:
        words = re.compile(cell.without, re.IGNORECASE)
        for path, text in files.items():
            if found := words.search(text):
                raise SystemExit(f"{package}/{path} has {found[0]!r}, which was to be nowhere: {cell.without}")
    said = [f"`{place.removesuffix('::')}`" for place in cell.at]
    said += [f"nowhere `{cell.without}`".replace("|", "\\|")] if cell.without else []
    said += [cell.because] if cell.because else []
    return "; ".join(said)


def page() -> Iterator[str]:
    versions = ", ".join(f"{name} {version(DISTRIBUTIONS.get(package, package))}" for name, package in PACKAGES.items())
    yield "# What is there, and where it stands"
    yield ""
    yield f"*{date.today().isoformat()}; `benchmarks/peers_features.py`; {versions}.*"
    yield ""
    yield "Read in the source of these versions; nothing of a peer was run for this page ([what was](peers.md)). A dash says that no"
    yield "source file of the package holds the words that stand with it below: not that it can't be built upon the package, nor that its"
    yield "authors' other packages lack it. Recipes and examples beside a package were not looked at. That a thing is there says nothing of"
    yield "how well it works."
    yield ""
    yield "<!-- table -->"
    yield f"| | {' | '.join(PACKAGES)} |"
    yield f"| --- |{' --- |' * len(PACKAGES)}"
    for feature, cells in FEATURES.items():
        yield f"| {feature} | {' | '.join(cell.says for cell in cells)} |"
    yield "<!-- table -->"
    yield ""
    yield "## Where"
    yield ""
    yield "Paths are of the package; words are regular expressions, in any case."
    for feature, cells in FEATURES.items():
        yield ""
        yield f"### {feature[0].upper()}{feature[1:]}"
        yield ""
        yield "| | | evidence |"
        yield "| --- | --- | --- |"
        for (name, package), cell in zip(PACKAGES.items(), cells, strict=True):
            yield f"| {name} | {cell.says} | {evidence(package, cell)} |"


def main() -> None:
    (HERE / "peers_features.md").write_text("\n".join(page()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
