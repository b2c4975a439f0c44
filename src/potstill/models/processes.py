"""The processes of one run, begun by `accelerate launch` or torchrun; settings of theirs that would change what is learned are refused."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DynamoBackend, FullyShardedDataParallelPlugin

from potstill.errors import RecipeError

_REFUSED = {
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.MEGATRON_LM: "Megatron-LM",
    DistributedType.XLA: "XLA",
}


def join_processes() -> Accelerator:
    """This process among the others of its run; alone, where no launcher began it. Without an accelerator they meet on the CPU (gloo).

    Raises RecipeError for what a launcher was told that would change the numbers or be left out without a word: number formats and
    accumulation (the recipe says both), engines that this loop doesn't know, weights that only the first process reads.
    """
    are_many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    processes = Accelerator(cpu=are_many and not torch.accelerator.is_available())
    launched = int(os.environ.get("WORLD_SIZE", "1"))  # under MPI accelerate has set it by now
    if processes.num_processes != launched:
        raise RecipeError(
            f"the launcher began {launched} processes and this one knows of {processes.num_processes}: each would do the whole run by "
            "itself. Join them before anything asks where to compute, and give each a device (or ACCELERATE_USE_CPU=true)"
        )
    if (name := _REFUSED.get(processes.distributed_type)) is not None or processes.parallelism_config is not None:
        raise RecipeError(
            f"training runs by DDP or FSDP2, and the configuration of accelerate asks for {name or 'a parallelism_config'}: use one of "
            "recipes/accelerate/"
        )
    if processes.mixed_precision != "no":
        raise RecipeError(
            f"the configuration of accelerate, or a Trainer that ran in this process before, says mixed_precision = "
            f"{processes.mixed_precision}, and the recipe's training.dtype decides that: set it to no, or begin another process"
        )
    if processes.gradient_accumulation_steps != 1:
        raise RecipeError(
            f"the configuration of accelerate accumulates {processes.gradient_accumulation_steps} steps, which would make the gradient so "
            "many times smaller: set it to 1, and training.micro_rows in the recipe for smaller passes"
        )
    if (plugin := processes.state.dynamo_plugin) is not None and plugin.backend != DynamoBackend.NO:
        raise RecipeError("the configuration of accelerate compiles the model (dynamo): leave it out")
    fsdp_plugin(processes)
    return processes


def fsdp_plugin(processes: Accelerator) -> FullyShardedDataParallelPlugin | None:
    """What accelerate's configuration says about dividing weights among processes (FSDP2); None where each has all of them.

    On CPUs accelerate leaves it out, and it is read here. Raises RecipeError for FSDP1 and for what would be done wrongly or not at all.
    """
    if processes.distributed_type == DistributedType.FSDP:
        plugin = processes.state.fsdp_plugin
    elif processes.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        plugin = FullyShardedDataParallelPlugin()
    else:
        return None
    assert plugin is not None
    if plugin.fsdp_version != 2:
        raise RecipeError(
            "weights are divided by FSDP2, and the configuration of accelerate asks for FSDP1: set fsdp_version to 2"
        )
    if plugin.cpu_ram_efficient_loading:
        raise RecipeError(
            "fsdp_cpu_ram_efficient_loading is true (accelerate's default): only the first process would read the models, and the others "
            "would go on with empty ones. Set it to false"
        )
    if plugin.activation_checkpointing:
        raise RecipeError(
            "fsdp_activation_checkpointing is true, and the recipe says that (training.gradient_checkpointing = true): set it to false"
        )
    return plugin
