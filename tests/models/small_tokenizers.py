"""Tokenizers trained on a few sentences, each cutting text by another rule; and texts on which the rules part."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
TEXTS = [
    "The quick brown fox's 3 cubs didn't jump over 1,234.5 lazy dogs!  They'd  slept.",
    "def f(x):\n    return x ** 2  # été, naïve, 12°\n\n\n\tif True:\n        pass\n",
    "Größe 你好，世界 123 こんにちは мир 🙂 ½ 'LL 'Ve I'M  ",
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(rule: str = "gpt-2", *, size: int = 320, begins: bool = False) -> PreTrainedTokenizerFast:
    """BPE of bytes; `rule` is llama.cpp's name for the way of cutting. `begins`: END stands before each text."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule in ("gpt-2", "smollm"))
    cut: list = [whole]
    if rule == "smollm":
        cut = [pre_tokenizers.Digits(individual_digits=True), whole]
    elif rule != "gpt-2":
        regex = {"llama-bpe": LLAMA3, "qwen2": QWEN2}.get(rule, rule)
        cut = [pre_tokenizers.Split(Regex(regex), "isolated"), whole]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def pieces() -> PreTrainedTokenizerFast:
    """SentencePiece's kind, as of Llama 2: ▁ for spaces and before each text, bytes for what has no piece."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([text.replace("🙂", "") for text in TEXTS] * 3, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
