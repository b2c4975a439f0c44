"""What a Hugging Face model is to us: where it comes from, what it gives, how it goes back to disk.

A teacher and a student are plain `PreTrainedModel`s, before and after. This room turns one forward pass into
`HiddenStates` (the rows that count, and the head that makes logits of them), and asks the model, on a few tokens, whether
that is the truth.

    tokenizer, model = load_tokenizer("teacher/"), load_model("teacher/")     # folder, hub name or a .gguf file
    check_head(model)                                                         # our logits are its logits
    check_packing(model)                                                      # contexts in one row don't see each other
    states = hidden_states(model, batch, size=49_152)                         # Batch -> HiddenStates
    save_model(model, tokenizer, "student/")                                  # all of it or nothing

    load.py       load_tokenizer, load_model, load_shape   folder, hub name or GGUF -> tokenizer, model
    forward.py    hidden_states, head_of            Batch -> HiddenStates; where each family keeps its scale and soft-cap
    tasks.py      task_of                           next token, hidden token, or class: what a model was made to predict
    layers.py     layers_of, without_layer          where the layers are, and how one is passed by
    asking.py     device_of, evaluating             a model is asked and left as it was
    listening.py  listening_to_layers, ..._attention  what layers put out and their attention works with, beside a forward pass
    projections.py  projections_of                  which channels of which modules are the queries, keys and values
    overhearing.py  overhearing                     what the attention multiplies
    generating.py complete, ends_of                 many prompts gone on from at once
    sampling.py   Sampling, cut, draw               the next token, drawn among those that may come
    checks.py     check_head, check_packing, is_causal  ask the model, don't trust the config
    sizes.py      size_of -> Size, check_context    parameters and bytes; how long a text may be
    precision.py  faster_dtype, matmul_speed        bf16 or fp32: measured on this device
    precision.py  holds_exactly, hold_in_           a frozen model in the dtype it is run in
    precision.py  this_device, on_this_device       where this process computes
    processes.py  join_processes, fsdp_plugin       one run in many processes, as accelerate's configuration says
    tensor_parallel.py  tensor_parallel, check_tensor_parallel, group_size  a model that processes run together, each a part of its layers
    save.py       save_model, saved_whole           write beside, then rename
"""

from potstill.models.checks import check_head, check_packing, few_tokens, is_causal
from potstill.models.forward import head_of, hidden_states
from potstill.models.generating import Companion, complete, ends_of
from potstill.models.layers import layers_of, layers_path, without_layer
from potstill.models.load import load_model, load_shape, load_tokenizer
from potstill.models.precision import faster_dtype, hold_in_, holds_exactly, matmul_speed, on_this_device, this_device
from potstill.models.processes import fsdp_plugin, join_processes
from potstill.models.sampling import Sampling, cut, draw
from potstill.models.save import save_model, saved_whole
from potstill.models.sizes import Size, check_context, size_of
from potstill.models.tasks import Task, classes_of, head_layer, task_of
from potstill.models.tensor_parallel import check_tensor_parallel, group_size, tensor_parallel

__all__ = [
    "Companion",
    "Sampling",
    "Size",
    "Task",
    "check_context",
    "check_head",
    "check_packing",
    "check_tensor_parallel",
    "classes_of",
    "complete",
    "cut",
    "draw",
    "ends_of",
    "faster_dtype",
    "few_tokens",
    "fsdp_plugin",
    "group_size",
    "head_layer",
    "head_of",
    "hidden_states",
    "hold_in_",
    "holds_exactly",
    "is_causal",
    "join_processes",
    "layers_of",
    "layers_path",
    "load_model",
    "load_shape",
    "load_tokenizer",
    "matmul_speed",
    "on_this_device",
    "save_model",
    "saved_whole",
    "size_of",
    "task_of",
    "tensor_parallel",
    "this_device",
    "without_layer",
]
