"""Writes tests/golden/training.json: losses of a training run in torch. Needs torch, transformers.

    python tests/golden/write_training.py

The tiny llama of tests/golden/parity/llama_tied_gqa takes ten steps of `torch.optim.AdamW` with
clipping, warm-up and decay, in float32; a third of the tokens are no targets.
"""

import json
import os

import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "parity", "llama_tied_gqa")
OPTIONS = {"learning_rate": 3e-3, "weight_decay": 0.1, "beta_1": 0.9, "beta_2": 0.95,
           "max_grad_norm": 1.0, "warmup_steps": 3, "min_learning_rate_ratio": 0.1}  # fmt: skip
STEPS, ROWS, LENGTH = 10, 4, 16


def make_batches(vocab_size: int) -> list[dict]:
    """Token ids, and 1 where the token is a target.

    Without token 0: Hugging Face gives the embedding of the padding token no gradient.
    """
    rng = np.random.default_rng(0)
    return [
        {
            "token_ids": rng.integers(1, vocab_size, (ROWS, LENGTH)).tolist(),
            "loss_mask": (rng.random((ROWS, LENGTH)) < 2 / 3).astype(int).tolist(),
        }
        for _ in range(STEPS)
    ]


def train(path: str, batches: list[dict], options: dict) -> list[dict]:
    """Loss and gradient norm of each step, by torch."""
    model = transformers.LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": options["weight_decay"]},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=options["learning_rate"],
        betas=(options["beta_1"], options["beta_2"]),
        eps=1e-8,
    )
    results = []
    for step, batch in enumerate(batches):
        token_ids = torch.tensor(batch["token_ids"])
        targets = torch.where(torch.tensor(batch["loss_mask"]) > 0, token_ids, -100)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), options)
        loss = model(input_ids=token_ids, labels=targets).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        results.append({"loss": loss.item(), "grad_norm": norm.item()})
    return results


def learning_rate(step: int, total: int, options: dict) -> float:
    """Warm-up, then cosine decay."""
    warmup, least = options["warmup_steps"], options["min_learning_rate_ratio"]
    if step < warmup:
        factor = (step + 1) / warmup
    else:
        progress = (step - warmup) / (total - warmup)
        factor = least + (1 - least) * 0.5 * (1 + np.cos(np.pi * progress))
    return options["learning_rate"] * factor


def main():
    batches = make_batches(61)
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "options": OPTIONS,
        "batches": batches,
        "steps": train(MODEL, batches, OPTIONS),
    }
    with open(os.path.join(HERE, "training.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file)
        file.write("\n")
    print([round(step["loss"], 4) for step in golden["steps"]])


if __name__ == "__main__":
    main()
