"""What will be learned, to look at: every token of a sample, coloured by the weight of predicting it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from potstill.data.tokenizing import TokenCorpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ_ONLY, _COUNTED = "dim", ("black on bright_green", "black on bright_cyan")


def preview(
    corpus: TokenCorpus, tokenizer: PreTrainedTokenizerBase, *, documents: int = 3, tokens: int = 200
) -> Iterator[Text]:
    """One text a document: read-only tokens dim, learned ones on green and cyan in turn, special tokens by their names."""
    for index in range(min(documents, len(corpus))):
        ids, weights = corpus.document(index)
        learned = int((weights > 0).sum())
        text = Text(f"document {index}: {len(ids):,} tokens, {learned:,} learned\n", style="bold")
        for place, (token_id, weight) in enumerate(zip(ids[:tokens].tolist(), weights[:tokens].tolist(), strict=True)):
            style = _COUNTED[place % 2] if weight > 0 else _READ_ONLY
            shown = str(tokenizer.decode([token_id]))
            weighed = "" if weight in (0.0, 1.0) else f"×{weight:g}"
            text.append(shown.replace("\n", "⏎\n") + weighed, style=style)
        if len(ids) > tokens:
            text.append(f" … {len(ids) - tokens:,} more tokens", style="italic")
        yield text
