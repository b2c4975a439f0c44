"""For the tests here: small trainings by name, in one process or in several that a test begins.

The rows of a step are completions: prompts weigh nothing, so that processes have unequal weights, sometimes none; the number of rows
changes from step to step and is no multiple of the processes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "soft_labels"))
from fake_labels import CONTEXT, TOKENS, corpus_of, labelled, manifest_of

from potstill.data import PackedBatches, TokenCorpus
from potstill.export import learning_through_
from potstill.losses import FeatureLoss, ForwardKL, HiddenLoss, JensenShannon, Projection, SoftLabelLoss
from potstill.soft_labels import Sampled, Store
from potstill.students import add_lora
from potstill.teachers import AveragedTeacher, LiveTeacher, MixtureTeacher, StoredTeacher
from potstill.training import TrainingSettings, train
from potstill.types import Batch, Teacher

STEPS = 50
# Of each step: losses, norms, parts and shares; and the student's weights at the end.
Trained = tuple[dict[str, list[float]], dict[str, torch.Tensor]]
_SAMPLES = 40
_ROWS = (5, 4, 3, 7, 2)
FOR_FOUR = (8, 4, 12, 6, 10)
DDP = {"ACCELERATE_USE_CPU": "true"}
FSDP2 = DDP | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
OFFLOADED = FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}


@dataclass(frozen=True)
class Ragged:
    """Completions, in steps of several sizes."""

    corpus: TokenCorpus
    rows: Sequence[int] = _ROWS

    def from_step(self, step: int) -> Iterator[Batch]:
        """The batch of each step is a function of its number."""
        for number, batch in enumerate(PackedBatches(self.corpus, CONTEXT, max(self.rows)).from_step(step), step):
            yield batch.rows(0, self.rows[number % len(self.rows)])


def corpus() -> TokenCorpus:
    """Prompts of 5 tokens, with answers of 1 to 20."""
    sizes = np.random.default_rng(5).integers(6, 26, _SAMPLES).tolist()
    return corpus_of(sizes, samples=tuple(range(_SAMPLES)))


def llama(*, layers: int, width: int, seed: int, tied: bool = True) -> LlamaForCausalLM:
    """Weights of another scale than fresh ones, so that losses differ from step to step."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=TOKENS,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.1,
        )
    )


def bert(*, layers: int, seed: int) -> BertForMaskedLM:
    """An encoder, whose head has a bias and layers of its own before it."""
    torch.manual_seed(seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=TOKENS,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.1,
        )
    )


def trained(
    case: str,
    *,
    steps: int = STEPS,
    until: int | None = None,
    folder: Path | None = None,
    store: Path | None = None,
    tensor_parallel: bool | int = False,
    rows: Sequence[int] = _ROWS,
    dtype: str = "float32",
) -> Trained:
    """The training of that name, stopped after `until` steps; gone on with, where the folder has a checkpoint."""
    text = corpus()
    student: PreTrainedModel = llama(layers=2, width=16, seed=3, tied=case != "untied")
    teacher: Teacher = LiveTeacher(
        llama(layers=3, width=32, seed=9), size=TOKENS, layers=(1, 2) if case == "features" else ()
    )
    measure, features = SoftLabelLoss(ForwardKL(), temperature=2.0, alpha=0.7), None
    settings = TrainingSettings(
        steps,
        learning_rate=1e-2,
        micro_rows=1 if case == "untied" else 2,
        checkpoint_every=until,
        tensor_parallel=tensor_parallel,
        dtype=getattr(torch, dtype),
    )
    if case == "store":
        assert store is not None
        measure = SoftLabelLoss(ForwardKL(), alpha=0.7)
        teacher = StoredTeacher(Store(store), text, tokenizer="bytes", measure=measure)
    elif case == "average":
        teacher = AveragedTeacher(llama(layers=2, width=16, seed=3), size=TOKENS, decay=0.9)
    elif case == "features":
        pairs, projection = ((0, 1), (1, 2)), Projection(16, 32)
        features = FeatureLoss((HiddenLoss(pairs, 0.5, projection=projection),), balance="dynamic", shares_every=10)
    elif case == "mixture":
        other = LiveTeacher(llama(layers=1, width=16, seed=5), size=TOKENS)
        teacher = MixtureTeacher((teacher, other), (2.0, 1.0), by="confidence")
    elif case == "masked":
        student, teacher = bert(layers=2, seed=3), LiveTeacher(bert(layers=3, seed=9), size=TOKENS)
    elif case == "lora":
        add_lora(student, rank=4, alpha=8.0)
    elif case == "checkpointing":
        settings = replace(settings, gradient_checkpointing=True)
        measure = SoftLabelLoss(JensenShannon(0.3), temperature=1.5, alpha=0.5)
    found: dict[str, list[float]] = {"loss": [], "norm": []}
    with learning_through_(student, 16) if case == "int4" else nullcontext():
        for step in train(student, teacher, Ragged(text, rows), measure, settings, folder=folder, features=features):
            for name, value in {"loss": step.loss, "norm": step.gradient_norm, **step.parts, **step.shares}.items():
                found.setdefault(name, []).append(value)
            if step.index == until:
                break
    return found, {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}


def make_store(folder: Path) -> Path:
    """Stored labels of the corpus."""
    labelled(folder, corpus(), manifest_of(Sampled(0.1)))
    return folder


def begin(world: int, script: list[str], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    """The processes of one run on this machine, as a launcher begins them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *script],
            env=os.environ | address | sizes | dict(environment) | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def together(
    cases: Mapping[str, Mapping[str, object]], out: Path, environment: Mapping[str, str], *, world: int = 2
) -> dict[str, Trained]:
    """What `trained` gives in so many processes for what is asked under each name."""
    ranks = begin(world, [__file__, str(out), json.dumps(cases, default=str)], environment)
    for rank in ranks:
        said, errors = rank.communicate(timeout=240)
        assert rank.returncode == 0, said + errors[-3000:]
    return {
        name: (json.loads((out / f"{name}.json").read_text()), load_file(out / f"{name}.safetensors")) for name in cases
    }


def main() -> None:
    """In one of several processes."""
    from accelerate import PartialState

    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    for name, asked in json.loads(sys.argv[2]).items():
        paths = {what: Path(asked[what]) for what in ("folder", "store") if what in asked}
        found, weights = trained(**{**asked, **paths})
        if PartialState().is_main_process:
            (out / f"{name}.json").write_text(json.dumps(found))
            save_file({one: tensor.contiguous() for one, tensor in weights.items()}, out / f"{name}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
