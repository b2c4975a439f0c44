"""The loss under FSDP2: the head's weight is whole when it is used, and its gradient finds its shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import os, sys
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM
from potstill.losses import JensenShannon, SoftLabelLoss
from potstill.teachers import FakeTeacher
from potstill.training.learner import Objective
from potstill.types import Batch

rank, world, tied = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[2] == "tied"
torch.manual_seed(0)
student = LlamaForCausalLM(LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                       num_attention_heads=2, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2))
objective = Objective(student, None, 61, compiled=False)
draw = torch.Generator().manual_seed(1)
tokens = torch.randint(0, 61, (4, 9), generator=draw)
weights = (torch.rand(4, 8, generator=draw) > 0.3).float()
batch = Batch(tokens[:, :-1], tokens[:, 1:], weights, torch.zeros(4, 8, dtype=torch.long), *(2 * [torch.arange(8).expand(4, 8)]))
share = 4 // world
mine = batch.rows(rank * share, (rank + 1) * share)
if world > 1:
    distributed.init_process_group("gloo")
    for layer in student.model.layers:
        fully_shard(layer)
    fully_shard(objective)
total, *_ = objective(mine, FakeTeacher(61).label(mine), SoftLabelLoss(JensenShannon(0.3), 2.0, 0.6), False)
(total * (world / batch.weight.item())).backward()
full = lambda gradient: gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
gradients = {name: full(parameter.grad) for name, parameter in objective.named_parameters()}
if rank == 0:
    torch.save(gradients, sys.argv[1])
if world > 1:
    distributed.destroy_process_group()
"""


def gradients(world: int, tied: str, out: Path) -> dict[str, torch.Tensor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(out), tied],
            env=os.environ | address | {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=180)
        assert rank.returncode == 0, errors[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_sharded_gradients_are_the_whole_ones(tmp_path: Path):
    for tied in ("tied", "untied"):
        whole, sharded = (gradients(world, tied, tmp_path / f"{tied}-{world}.pt") for world in (1, 2))
        assert whole.keys() == sharded.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(sharded[name], gradient, rtol=1e-4, atol=1e-6)
