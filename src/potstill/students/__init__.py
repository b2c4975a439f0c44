"""Where does a student come from? From a path (`models.load_model`), from its teacher's layers, or from nothing.

    student, lineage = copy_layers(teacher, evenly_spaced(30, 15))
    student = fresh(teacher, {"num_hidden_layers": 6, "hidden_size": 192}, seed=0)

Each student is built from its own configuration, so plain `from_pretrained` reloads what `save_pretrained` writes, and
`generate` has a cache of the right size. The teacher is never changed.

    copy_layers.py  copy_layers, evenly_spaced, first_and_last   some of the teacher's layers and all the rest of it
    prune.py        prune, Shape, least_influential, without_block   the most important layers, neurons, heads, channels
    importance.py   measure_importance -> Importance   how much each of them matters
    shapes.py       shape_of_share, sizes_of   which shape has so many parameters
    anatomy.py      axis_of -> Axis   where neurons, heads and channels lie in the weights of any architecture
    fresh.py        fresh                                        random weights in a smaller shape
    configs.py      changed_config                               one configuration from another, per-layer lists included
"""

from potstill.students.anatomy import Axis, AxisName, axis_of
from potstill.students.copy_layers import copy_layers, evenly_spaced, first_and_last
from potstill.students.fresh import fresh
from potstill.students.importance import Importance, cuttable_axes, measure_importance
from potstill.students.prune import Shape, least_influential, prune, without_block
from potstill.students.shapes import Sizes, shape_of_share, sizes_of

__all__ = [
    "Axis",
    "AxisName",
    "Importance",
    "Shape",
    "Sizes",
    "axis_of",
    "copy_layers",
    "cuttable_axes",
    "evenly_spaced",
    "first_and_last",
    "fresh",
    "least_influential",
    "measure_importance",
    "prune",
    "shape_of_share",
    "sizes_of",
    "without_block",
]
