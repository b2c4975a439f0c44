"""Train the pocket teacher that ships inside the package, from nothing, on the Python standard library's source.

    .venv/bin/python tools/pocket_teacher.py train runs/pocket --minutes 85     (resumes where it was killed)
    .venv/bin/python tools/pocket_teacher.py ship runs/pocket                    (held-out score, model card, files into the package)

Its text is every .py file of the running interpreter's standard library, tests included, whose document hash says
"train"; the held-out and search documents that `potstill demo` scores on are never seen. Plain pre-training: hard labels,
AdamW for embeddings and norms, Muon for the matrices inside the blocks (Jordan et al. 2024), cosine decay; in bf16 where that
is faster on the machine at hand, otherwise in fp32.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import shutil
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.data.splits import split_of
from potstill.data.standard_library import standard_library_files
from potstill.models.precision import faster_dtype

END, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY, CONTEXT = 4096, 512
SHIPPED = Path(__file__).resolve().parents[1] / "src/potstill/pocket"


def documents(split: str, *, with_tests: bool) -> list[tuple[str, str]]:
    return [(key, text) for key, text in standard_library_files(with_tests=with_tests) if split_of(key) == split]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[np.ndarray]:
    """One array a document: the end mark first (something to predict the first token from), and last."""
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [np.array([end, *ids, end], dtype=np.int32) for ids in encoded]


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    end = tokenizer.convert_tokens_to_ids(END)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        )
    )


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz (Jordan et al. 2024), in the matrices' own dtype.

    torch.optim.Muon does these matmuls in bf16 always, which on a CPU without it takes minutes a step.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = []
                for matrix in matrices:
                    average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                    average.lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(average, group["momentum"]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(updates: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix of each in [matrices, out, in], roughly: five quintic Newton-Schulz steps."""
    x = updates if updates.shape[1] <= updates.shape[2] else updates.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if updates.shape[1] <= updates.shape[2] else x.mT


def optimizers_for(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers." in name)]
    return [
        Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def windows(stream: list[np.ndarray], epoch: int) -> np.ndarray:
    """[rows, CONTEXT + 1] of the shuffled documents end to end, cut at an offset that changes with the epoch."""
    order = random.Random(epoch)
    shuffled = list(stream)
    order.shuffle(shuffled)
    line = np.concatenate(shuffled)[order.randrange(CONTEXT) :]
    rows = (len(line) - 1) // CONTEXT
    cut = np.lib.stride_tricks.sliding_window_view(line, CONTEXT + 1)[: rows * CONTEXT : CONTEXT].copy()
    return cut[np.random.default_rng(epoch).permutation(rows)]


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=faster_dtype("cpu") == torch.bfloat16)


def held_out_score(
    model: LlamaForCausalLM, stream: list[np.ndarray], rows: int | None = None
) -> tuple[float, float, int]:
    """(nats a token, next-token accuracy, tokens) over windows that restart at every document."""
    cuts = [doc[start : start + CONTEXT + 1] for doc in stream for start in range(0, len(doc) - 1, CONTEXT)]
    if rows is not None:
        cuts = cuts[:: max(1, len(cuts) // rows)]
    loss = hits = count = 0.0
    model.eval()
    with torch.inference_mode(), autocast():
        for start in range(0, len(cuts), 16):
            batch = cuts[start : start + 16]
            width = max(map(len, batch))
            ids = torch.tensor(np.stack([np.pad(row, (0, width - len(row)), constant_values=-100) for row in batch]))
            targets = ids[:, 1:].long()
            logits = model(ids[:, :-1].clamp_min(0)).logits.float()
            loss += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            hits += (logits.argmax(-1) == targets)[targets >= 0].sum().item()
            count += (targets >= 0).sum().item()
    model.train()
    return loss / count, hits / count, int(count)


def train(folder: Path, minutes: float, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for _, text in documents("train", with_tests=True)]
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(texts)
        tokenizer.save_pretrained(folder)
    stream = token_stream(tokenizer, texts)
    held_out = token_stream(tokenizer, [text for _, text in documents("held_out", with_tests=False)])
    tokens_an_epoch = sum(map(len, stream))
    print(
        f"{len(stream)} documents, {sum(map(len, texts)) / 1e6:.1f} M characters, {tokens_an_epoch / 1e6:.2f} M tokens",
        flush=True,
    )

    torch.manual_seed(0)
    model = new_model(tokenizer)
    optimizers = optimizers_for(model)
    peaks = [group["lr"] for o in optimizers for group in o.param_groups]
    state = {"step": 0, "spent": 0.0, "epoch": 0, "row": 0}
    # A developer's own working file on a developer's own disk, never shipped: the only place where torch's format is used.
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, kept in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        state = saved["state"]
    forward = torch.compile(model.model)
    budget = minutes * 60
    cuts = windows(stream, state["epoch"])
    last_save = last_print = time.monotonic()
    started = time.monotonic() - state["spent"]
    while (spent := time.monotonic() - started) < budget:
        done = spent / budget
        rate = min(1.0, state["step"] / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * rate
        if state["row"] + rows > len(cuts):
            state["epoch"], state["row"] = state["epoch"] + 1, 0
            cuts = windows(stream, state["epoch"])
        batch = torch.from_numpy(cuts[state["row"] : state["row"] + rows]).long()
        state["row"] += rows
        with autocast():
            hidden = forward(batch[:, :-1]).last_hidden_state
            logits = F.linear(hidden, model.lm_head.weight)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        now = time.monotonic()
        if now - last_print > 20:
            last_print = now
            print(
                f"step {state['step']} epoch {state['epoch']} {spent / 60:.1f} min loss {loss.item():.3f} "
                f"{state['step'] * rows * CONTEXT / (now - started):.0f} tokens/s",
                flush=True,
            )
        if now - last_save > 240:
            last_save = now
            nats, accuracy, _ = held_out_score(model, held_out, rows=64)
            print(f"  held out: {nats:.3f} nats a token, accuracy {accuracy:.3f}", flush=True)
            save(checkpoint, model, optimizers, state | {"spent": now - started})
    state["spent"] = time.monotonic() - started
    save(checkpoint, model, optimizers, state)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "state.json").write_text(
        json.dumps(
            state
            | {"precision": "bf16 autocast" if faster_dtype("cpu") == torch.bfloat16 else "fp32"}
            | {"rows": rows, "tokens_an_epoch": tokens_an_epoch, "documents": len(stream)}
        )
    )


def save(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], state: dict) -> None:
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "state": state}, part)
    part.replace(path)


CARD = """---
license: apache-2.0
language: [en]
tags: [code, python]
---
# The pocket teacher

A small causal language model of Python source code ({parameters:.2f} M parameters, Llama architecture: hidden {hidden}, {layers} layers,
{heads} query and {kv_heads} key-value heads, FFN {ffn}, context {context}, tied embeddings, own byte-level BPE of {vocabulary:,} tokens).
It exists so that `potstill demo` and the tests have a real teacher that needs no download. It is not useful for anything else.

**Data.** The standard library of CPython {python}, its tests included: {documents:,} files, {tokens:.2f} M tokens, without the character
tables in `encodings/`, without `pydoc_data/`, and without every file whose path hashes into the held-out or search part
(`potstill.data.splits`). The library is licensed under the PSF licence; no other text was used.

**Training.** `tools/pocket_teacher.py` in the repository: {steps:,} steps of {rows} x {context} tokens ({seen:.1f} M tokens, {epochs:.1f} epochs),
{minutes:.0f} minutes on {cores} CPU cores in {precision}; Muon and AdamW, cosine decay, seed 0.

**Held out** ({held_out_tokens:,} tokens of {held_out_documents} files it never saw, contexts of {context} that start cold, {date}):
{nats:.4f} nats a token, perplexity {perplexity:.2f}, next-token accuracy {accuracy:.1%}. On the same number of its own training tokens:
{train_nats:.4f} nats a token (perplexity {train_perplexity:.2f}), so it has learned some of its text by heart.

The weights are Apache-2.0 like the rest of potstill. It repeats what Python's own source says, also where that is old or wrong.
"""


def ship(folder: Path) -> None:
    """Score the trained model on held-out files, write the model card, and put all into the package."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    state = json.loads((folder / "state.json").read_text())
    texts = [text for _, text in documents("held_out", with_tests=False)]
    nats, accuracy, tokens = held_out_score(model, token_stream(tokenizer, texts))
    seen = token_stream(tokenizer, [text for _, text in documents("train", with_tests=False)][::8])
    train_nats, _, _ = held_out_score(model, seen, rows=tokens // CONTEXT)
    config = model.config
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        ffn=config.intermediate_size,
        context=CONTEXT,
        vocabulary=VOCABULARY,
        python=platform.python_version(),
        documents=state["documents"],
        tokens=state["tokens_an_epoch"] / 1e6,
        steps=state["step"],
        rows=state["rows"],
        seen=state["step"] * state["rows"] * CONTEXT / 1e6,
        epochs=state["step"] * state["rows"] * CONTEXT / state["tokens_an_epoch"],
        minutes=state["spent"] / 60,
        precision=state["precision"],
        cores=torch.get_num_threads(),
        held_out_tokens=tokens,
        held_out_documents=len(texts),
        date=date.today().isoformat(),
        nats=nats,
        perplexity=math.exp(nats),
        accuracy=accuracy,
        train_nats=train_nats,
        train_perplexity=math.exp(train_nats),
    )
    shutil.rmtree(SHIPPED, ignore_errors=True)
    # The end mark goes in front of every text, as it did in training, whoever calls the tokenizer.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, tokenizer.convert_tokens_to_ids(END))]
    )
    tokenizer.save_pretrained(SHIPPED)
    model.to(torch.bfloat16).save_pretrained(SHIPPED)
    (SHIPPED / "README.md").write_text(card)
    print(card)
    print({path.name: path.stat().st_size for path in sorted(SHIPPED.iterdir())})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    training.add_argument("folder", type=Path)
    training.add_argument("--minutes", type=float, default=85)
    training.add_argument("--rows", type=int, default=8, help="sequences of 512 tokens a step")
    shipping = verbs.add_parser("ship")
    shipping.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "train":
        train(arguments.folder, arguments.minutes, arguments.rows)
    else:
        ship(arguments.folder)
