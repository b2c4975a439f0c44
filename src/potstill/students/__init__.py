"""Where does a student come from? From a path (`models.load_model`), from its teacher's layers, or from nothing.

    student, lineage = copy_layers(teacher, evenly_spaced(30, 15))
    student = fresh(teacher, {"num_hidden_layers": 6, "hidden_size": 192}, seed=0)

Each student is built from its own configuration, so plain `from_pretrained` reloads what `save_pretrained` writes, and
`generate` has a cache of the right size. The teacher is never changed.

    copy_layers.py  copy_layers                        some of the teacher's layers and all the rest of it
    choices.py      choose_layers                      which: at even distances, from the ends, by importance one by one or as a run
    choices.py      layers_to_imitate, ends_of_blocks, last_layers  whose hidden state each student layer is to have
    merging.py      merge_key_value_heads              fewer key-value heads, each the mean of neighbours
    prune.py        prune, Shape                       the most important layers, neurons, heads, channels
    importance.py   measure_importance -> Importance   how much each of them matters
    shapes.py       shape_of_size, largest_shape, sizes_of   which shape is so small, or so fast
    anatomy.py      axis_of -> Axis   where neurons, heads and channels lie in the weights of any architecture
    lora.py         add_lora, merge_lora_              learn through low-rank adapters alone (peft)
    probes.py       small, random or memoryless models to ask how an architecture behaves
    fresh.py        fresh                                        random weights in a smaller shape
    configs.py      changed_config                               one configuration from another, per-layer lists included
"""

from potstill.students.anatomy import Axis, AxisName, axis_of
from potstill.students.choices import (
    LayerChoice,
    choose_layers,
    ends_of_blocks,
    evenly_spaced,
    first_and_last,
    last_layers,
    layers_to_imitate,
    least_influential,
    least_missed,
    without_block,
)
from potstill.students.copy_layers import copy_layers
from potstill.students.fresh import fresh
from potstill.students.importance import Importance, cuttable_axes, measure_importance, with_losses
from potstill.students.lora import add_lora, merge_lora_
from potstill.students.prune import Shape, prune
from potstill.students.shapes import (
    NON_EMBEDDING,
    TOTAL,
    Sizes,
    cached_values,
    largest_shape,
    shape_of_share,
    shape_of_size,
    shaped,
    sizes_of,
)

__all__ = [
    "NON_EMBEDDING",
    "TOTAL",
    "Axis",
    "AxisName",
    "Importance",
    "LayerChoice",
    "Shape",
    "Sizes",
    "add_lora",
    "axis_of",
    "cached_values",
    "choose_layers",
    "copy_layers",
    "cuttable_axes",
    "ends_of_blocks",
    "evenly_spaced",
    "first_and_last",
    "fresh",
    "largest_shape",
    "last_layers",
    "layers_to_imitate",
    "least_influential",
    "least_missed",
    "measure_importance",
    "merge_lora_",
    "prune",
    "shape_of_share",
    "shape_of_size",
    "shaped",
    "sizes_of",
    "with_losses",
    "without_block",
]
