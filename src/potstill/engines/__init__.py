"""Engines that run a student in production, started and asked from here.

    with LlamaServer(Path("student.gguf"), context=2048, threads=2) as server:
        print(server.url)                                          # OpenAI's paths and llama.cpp's own lie below it
        print(server.ask("/tokenize", {"content": "good day"}))

In: a GGUF file. Out: a server on this machine, its own tokens and probabilities, and a `Teacher` that marks text with what the engine
computes, so that a file is measured as any model is.

What serves is here by name and takes no torch; what measures is imported from its file.

llama.py    LlamaServer: llama.cpp in this process, on a port of its own
reading.py  EngineTeacher, log_probabilities, tokens_of, speed_of: what the engine computes
"""

from potstill.engines.llama import LlamaServer

__all__ = ["LlamaServer"]
