import sys
from math import exp

import torch
from datasets import load_dataset
from modelopt.torch.distill.plugins.huggingface import KDTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, default_data_collator

teacher, student, text, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(teacher)


def packed(batch):
    ids = [token for document in batch["text"] for token in [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]]
    rows = [ids[start : start + 256] for start in range(0, len(ids) - 255, 256)]
    return {"input_ids": rows, "labels": rows}


documents = load_dataset("text", data_dir=text, sample_by="document", split="train").train_test_split(0.1, seed=0)
data = documents.map(packed, batched=True, remove_columns="text")
settings = TrainingArguments(
    out, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-4, report_to="none", use_cpu=True
)
trainer = KDTrainer(
    AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32),
    settings,
    data_collator=default_data_collator,
    train_dataset=data["train"],
    eval_dataset=data["test"],
    distill_args={"teacher_model": AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)},
)
trainer.train()
print("perplexity", exp(trainer.evaluate()["eval_ce_loss"]))
trainer.save_model(out)
tokenizer.save_pretrained(out)
