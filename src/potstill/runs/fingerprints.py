"""What a run is of: fingerprints of models and tokenizers, versions of what computes, the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PACKAGES = ("potstill", "torch", "transformers", "accelerate", "tokenizers", "datasets", "safetensors", "numpy")
# Of each tensor: enough that no training step goes unnoticed, few enough that 70 billion parameters take seconds.
_SAMPLED_VALUES = 4096


def fingerprint_of_model(model: PreTrainedModel) -> str:
    """Of the configuration, and of name, shape and some thousand values of each weight."""
    digest = hashlib.blake2b(digest_size=16)
    settings = {
        k: v for k, v in model.config.to_dict().items() if not k.startswith("_") and k != "transformers_version"
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLED_VALUES)].cpu().contiguous()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes() if len(sample) else b"")
    return digest.hexdigest()


def fingerprint_of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of everything that decides which ids a text becomes."""
    digest = hashlib.blake2b(digest_size=16)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    digest.update((tokenizer.name_or_path if backend is None else backend.to_str()).encode())
    digest.update(f"{tokenizer.chat_template} {tokenizer.all_special_ids} {tokenizer.eos_token_id}".encode())
    return digest.hexdigest()


def manifest(facts: Mapping[str, object]) -> dict[str, object]:
    """The facts of a run, with versions and machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        **facts,
    }


def versions() -> dict[str, str]:
    """Of the packages that decide what is computed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
