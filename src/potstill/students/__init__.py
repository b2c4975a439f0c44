"""Where does a student come from? From a path (`models.load_model`), from its teacher's layers, or from nothing.

    student, lineage = copy_layers(teacher, evenly_spaced(30, 15))
    student = fresh(teacher, {"num_hidden_layers": 6, "hidden_size": 192}, seed=0)

Each student is built from its own configuration, so plain `from_pretrained` reloads what `save_pretrained` writes, and
`generate` has a cache of the right size. The teacher is never changed.

    copy_layers.py  copy_layers, evenly_spaced, first_and_last   some of the teacher's layers and all the rest of it
    fresh.py        fresh                                        random weights in a smaller shape
    configs.py      changed_config                               one configuration from another, per-layer lists included
"""

from potstill.students.copy_layers import copy_layers, evenly_spaced, first_and_last
from potstill.students.fresh import fresh

__all__ = ["copy_layers", "evenly_spaced", "first_and_last", "fresh"]
