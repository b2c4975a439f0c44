"""What peers_losses.md and peers.md say around their tables."""

INTRODUCTION = """
The checks of `tests/conformance/`, on every library's public functions, by the same code. Two figures in a cell are the relative errors
of value and gradient (of hidden states and head), from a closed form in fp64 in the scale that the library documents: a sum or a mean,
with or without T², JSD divided or not. Those are conventions, not errors. **Bold** is what doesn't hold; each has its reproduction
below, but for the bf16 columns, which are rounding. DistillKit isn't on the registry: its functions are those of its repository at a61c2e7
(2026-03-14).
"""

COLUMNS = """
- *student = teacher*: as shares of what value and gradient are for another student.
- *in parts*: four micro-batches of 11, 3, 7 and 2 predictions, summed, beside one of 23; the count of the whole is given where a function
  takes it. *A mean only*: there is no such argument, so whoever accumulates has to weigh the parts.
- *prompt, padding*: other hidden states where nothing counts, and two positions more. *caller's*: the function gives one number a row, or
  takes no mask.
- *nothing counts*: a micro-batch of prompts only.
- *teacher's −∞*: a teacher that forbids six tokens. Reverse KL is infinite there by definition; "finite" says that a floor was set.
- *bf16 states*: hidden states and heads in bf16, from the fp64 form of these; the value's error is in nats a prediction, bold from a
  thousandth. *bf16 logits*: the same, from the fp64 form of the rounded logits that the function was given: its own part. Trainers often
  widen logits first: Model-Optimizer's does, and accelerate does under autocast; a model loaded in bf16 gives bf16.

## The teacher's k likeliest tokens

Forward KL on 8 of 97 tokens. At student = teacher: the value in nats, and the gradient's length beside that of a student elsewhere.
bf16: nats a row between bf16 logits and the same logits in fp32 (64 of 2,000 tokens).
"""

TOP_K = """
"Teacher renormalised" pulls at a student that is the teacher, towards the k tokens: the library offers it beside one that doesn't.
"Both renormalised" leaves free how much the student gives to the k tokens together. Samples, which are ours, are right on average only: the
gradient of one draw isn't zero at the teacher, and its value can be negative.

## Trainers: one step, split or whole

Four sequences of 11, 3, 7 and 2 predictions that count, at once and one at a time by gradient accumulation; the last column with four of
six predictions each. The gradient is what the optimizer found in the parameters, before clipping.
"""

DEVIATIONS = """
## What does not hold, alone
"""

WHAT_IT_MEANS = {
    "torchtune_value_at_the_teacher": (
        "The value has the teacher's entropy in it, a constant; the gradient is that of the KL. The documentation says KL divergence. "
        "`SymmetricKLLoss` adds it to a reverse KL."
    ),
    "torchtune_nothing_counts": (
        "A zero without a graph, on which `backward()` raises; 0/0 in chunks of reverse and symmetric KL, where forward KL has a guard."
    ),
    "distillkit_nothing_counts": "0/0 unless `num_items_in_batch` is given.",
    "liger_padded_vocabulary": (
        "Where the teacher's head is larger, the student gets logits of 0 for the missing tokens; 0 is no small logit, so the student's "
        "distribution changes. How much depends on its other logits."
    ),
    "torchdistill_square_of_the_temperature": (
        "Its documentation has α·CE + (1-α)·τ²·KL; at α = 0, or without targets, the value and the gradient lack τ²."
    ),
    "modelopt_accumulation": (
        "Each micro-batch's mean is added, undivided: transformers' Trainer takes a model that accepts `num_items_in_batch` to have "
        "divided by it. With AdamW the factor shows in clipping only (`max_grad_norm` is 1 by default); that a prediction in a short row "
        "counts for more shows always. A subclass of `Trainer` that returns a mean does the same."
    ),
    "kl_div_of_minus_infinity": (
        "0 · ∞ in `F.kl_div` with `log_target=True`; with probabilities for targets PyTorch has a rule for it. The value only: gradients "
        "are right. Such a teacher is one whose decoder forbids tokens, not a usual one."
    ),
}

DISTILLKIT_MASK = """
**DistillKit: the trainer's mask is not shifted.** The prediction after token t learns where token t is a completion token: the completion's
first token isn't learned, and the position after its last one is. `benchmarks/peers/distillkit_mask.py`, in an environment with the
versions that it asks for (TRL 0.25.1, transformers 4.57.6), calls the trainer's `total_distillation_loss` and prints

```text
carry gradient:           [3, 4, 5, 6]
predict a completion token: [2, 3, 4, 5]
```

Where every token counts, as in packed text without prompts, the difference is one position at the end of a row.
"""

BETTER_THAN_OURS = """
- TRL's `ChunkedDivergenceFunction` keeps the logits of a bf16 matmul in fp32: from bf16 states its value is a thousand times closer than
  ours, its gradient five times.
- torchtune upcasts to fp32 everywhere, and has `normalize=False`, the simplest of all ways to accumulate.
- TRL's `generalized_jsd_loss` takes `num_items_in_batch`: its trainer's gradient doesn't depend on the split either.
- Ours needs hidden states and a head: who has logits already can't use the fused loss, only the divergences under it.
"""

FIRST = """
The same work by potstill and by what users would pick instead, in one environment. Each part has a script, and what others do better is
said. Versions are those of this page's run; each linked page has its own.

## Loss functions

Every library's functions meet their closed forms in fp64 within rounding, value and gradient, in the scale that each documents:
[the table, and a reproduction for each exception](peers_losses.md). What did not hold:

| | what | consequence |
| --- | --- | --- |
| torchtune | `ForwardKLLoss` is the cross-entropy; its documentation says KL | a constant in the value, none in the gradient |
| torchtune, DistillKit | a micro-batch in which nothing counts: no graph, or 0/0 | an error or NaN, for such batches |
| Model-Optimizer | `KDTrainer` adds micro-batches' means, undivided | four parts: a gradient four times as long; short rows weigh more |
| DistillKit | its trainer's mask isn't shifted (seen alone) | a completion's first token isn't learned, the position after the last is |
| torchdistill | `KDLoss` lacks τ² where α = 0 | another scale than documented |
| Liger | missing tokens of a smaller vocabulary get logit 0 | not zero at the teacher |
| TRL, Liger, DistillKit | NaN in the value where a teacher's logit is −∞ | none in the gradient |
| potstill | bf16: logits rounded before the row mathematics | gradients 0.01 from exact, TRL's kernel 0.002 |

## Time, memory, bytes

Pages of their own, each with its date and machine: [a training step](train_step.md) in bf16 beside TRL's GKD trainer (2.4 × as fast, each
alone in its process, in 4.7 GiB where it takes 7.5; 1.5 × where TRL's ran behind ours in one process, whose memory was there already) and
plain training; [the fused loss](fused_loss.md) beside TRL, torchtune, Liger and PyTorch (1.5 to 2.9 × as fast in fp32, 1.9 to 7.6 × in
bf16; a tenth of the naive memory); [bytes against fidelity](store.md) beside top-k and DistillKit's layout.
"""

QUALITY = """
The pocket teacher marks, three of its six layers learn, 102,400 tokens of the standard library, forward KL at T = 1:
`benchmarks/peers_quality.py`. The same packed rows, AdamW and rate at every step; potstill's `measure` on the same 20,000 held-out tokens.
Then each for as many steps as it makes in the time that potstill took, its rate falling over those.
"""

BY_DESIGN = """
What differs by design: contexts that share a row don't see each other in potstill, in the others they do; trainers take the rows in an
order of their own. The machine did nothing else; seconds are of the processor, one thread.
"""

JOB = """
Forward KL at T = 1 from a live teacher, packed text of a folder, a tenth held out, its perplexity, the student on disk: the files of
`benchmarks/peers/job/`, each run for two steps on the pocket model and a copy of half its layers. Without blanks, comments, imports.
"""

LINES = """
The recipe also measures teacher and student on held-out text with intervals, resumes, and writes a report. Packing and splitting by hand
is six lines of each of the three trainer scripts. Of these, Model-Optimizer's is the shortest, and reports cross-entropy beside its
divergence.
"""

NOT_RUN = """
## Not run

- TRL's `DistillationTrainer` (1.16): on-policy only, so not at equal tokens of a corpus; its loss is in the table of losses.
- torchtune's recipe: its configurations are for LoRA students of Llama and Qwen on a GPU; its losses want `torchao` 0.16.
- DistillKit's trainer: not on the registry; wants TRL 0.25 and transformers of that time, in an environment of its own. Its losses, and the
  mask, were run from the repository.
- Liger's Triton kernels: this machine has no GPU.
- torchdistill beyond its loss: its models are torchvision's, whose build for this PyTorch was not to be had.

Beyond `make bench-setup`, this environment had
`uv pip install --no-deps torchao==0.16.0 torchdistill==1.1.5 nvidia-modelopt==0.47.0` with
`scipy cython ninja nvidia-ml-py pulp`, and DistillKit by `uv pip install --no-deps git+https://github.com/arcee-ai/DistillKit@a61c2e7`.
"""
