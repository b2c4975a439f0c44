"""Small on disk, loadable elsewhere.

In: a student. Out: the same with weights of four or eight bits, to be measured, learned through, or packed for transformers and vLLM;
or a GGUF file for llama.cpp, Ollama and LM Studio.

    group = group_of(student)
    print(measure(rounded(student, group), held_out, length=512))
    save_packed(student, tokenizer, Path("student-int4"), group)
    save_gguf(student, tokenizer, Path("student.gguf"), "q8_0")

grid.py        a weight as codes and scales
int4.py        a model on that grid; learning through it; packing for compressed-tensors
calibrated.py  codes and scales that auto-round finds on text
gguf_file.py   a student as a GGUF file; what such a file holds
families.py    settings and tensors of a family as llama.cpp names and orders them
vocabulary.py  a tokenizer as llama.cpp reads it
padding.py     widths that blocks divide, with zeros
blocks.py      weights as GGUF's blocks of bytes: which type each matrix is of
k_quants.py    those of 256 weights
folder.py      an export's page, Modelfile, sizes by part and lines to copy
hub.py         a folder to the Hugging Face hub
"""

from potstill.export.blocks import GgufKind, kind_named
from potstill.export.calibrated import calibrated
from potstill.export.gguf_file import save_gguf
from potstill.export.grid import GRID
from potstill.export.int4 import Codes, bytes_of, checked_group, group_of, learning_through_, rounded, save_packed

__all__ = [
    "GRID",
    "Codes",
    "GgufKind",
    "bytes_of",
    "calibrated",
    "checked_group",
    "group_of",
    "kind_named",
    "learning_through_",
    "rounded",
    "save_gguf",
    "save_packed",
]
