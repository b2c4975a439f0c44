"""Small on disk, loadable elsewhere.

In: a student. Out: the same with weights of four bits, to be measured, learned through, or packed for transformers and vLLM.

    group = group_of(student)
    print(measure(rounded(student, group), held_out, length=512))
    save_packed(student, tokenizer, Path("student-int4"), group)

int4.py  round to nearest on compressed-tensors' grid; learning through it; packing
hub.py   a folder to the Hugging Face hub
"""

from potstill.export.int4 import bytes_of, group_of, learning_through_, rounded, save_packed

__all__ = ["bytes_of", "group_of", "learning_through_", "rounded", "save_packed"]
