"""Writes tests/golden/families/CASE.npz for each case of `families.py`, with transformers.

    python tests/golden/write_families.py [CASE...]

A file holds config.json, the names and shapes of the tensors, the logits of the real tokens, the
loss, and of each tensor's gradient what `families.product` keeps; all in float32.
"""

import copy
import json
import os
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import families

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")


def make(case: str):
    """The model of a case in torch, and the shapes of its tensors as files have them."""
    name, options = families.CASES[case]
    cls = getattr(transformers, name)
    config = cls.config_class(**{**families.BASE, **options}, architectures=[name])
    with tempfile.TemporaryDirectory() as folder:
        shapes = {n: list(t.shape) for n, t in tensors(cls(config)).items()}
        values = {n: torch.tensor(families.weight(n, shape)) for n, shape in shapes.items()}
        config.save_pretrained(folder)
        save_file(values, os.path.join(folder, "model.safetensors"), {"format": "pt"})
        # The other implementations want widths that are multiples of 4.
        return cls.from_pretrained(folder, experts_implementation="eager").eval(), shapes


def tensors(model) -> dict:
    """Those that the model is saved as."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(os.path.join(folder, "model.safetensors"))


def by_length(model) -> bool:
    parameters = getattr(model.config, "rope_parameters", None) or {}
    return parameters.get("rope_type") in ("dynamic", "longrope")


def logits_of(model, token_ids, mask):
    """Logits; rows go through alone where they would turn each other's angles.

    And where the first column is taken for the first token. A model without a head has the mean of
    its vectors instead.
    """
    config = model.config
    types = families.token_types(mask, getattr(config, "type_vocab_size", 0))
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    if "roberta" in config.model_type:
        positions += config.pad_token_id + 1
    of_rows = "ForSequence" in type(model).__name__
    takes_first = types is not None and of_rows and not mask[:, 0].all()
    if takes_first:
        rows = []
        for ids, real, kind in zip(token_ids, mask, types, strict=True):
            kind = torch.tensor(kind[real])[None]
            rows.append(model(torch.tensor(ids[real])[None], token_type_ids=kind).logits[0])
        return torch.stack(rows)
    if not by_length(model):
        inputs = {"attention_mask": torch.tensor(mask), "position_ids": torch.tensor(positions)}
        if types is not None:
            inputs["token_type_ids"] = torch.tensor(types)
        found = model(torch.tensor(token_ids), **inputs)
        if hasattr(found, "logits"):
            return found.logits
        real = torch.tensor(mask, dtype=torch.float32)[..., None]
        return (found.last_hidden_state * real).sum(1) / real.sum(1)
    logits = [None] * len(mask)
    for row in np.argsort(mask.sum(1)):  # angles of "dynamic" never come back from a longer text
        (real,) = np.nonzero(mask[row])
        found = model(torch.tensor(token_ids[row, real])[None]).logits[0]
        blank = (int(real[0]), mask.shape[1] - 1 - int(real[-1]))
        logits[row] = torch.nn.functional.pad(found, (0, 0, *blank))
    return torch.stack(logits)


def expected(model, side: str) -> dict:
    """Token ids, mask, targets, logits, loss and gradients by transformers."""
    token_ids, mask = families.padded(model.config.vocab_size, side)
    logits = logits_of(model, token_ids, mask)
    targets = families.targets_of(token_ids, mask, logits.ndim == 2, logits.shape[-1])
    predicted = logits if logits.ndim == 2 else logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(predicted, torch.tensor(targets).flatten())
    model.zero_grad()
    loss.backward()
    holder = copy.deepcopy(model)  # its parameters are the gradients, to be named as in a file
    with torch.no_grad():
        for held, parameter in zip(holder.parameters(), model.parameters(), strict=True):
            held.copy_(torch.zeros_like(held) if parameter.grad is None else parameter.grad)
    gradients = {f"gradient/{n}": g.numpy() for n, g in tensors(holder).items()}
    return {"token_ids": token_ids, "mask": mask, "targets": targets, "loss": loss.item(),
            "logits": logits.detach().numpy(), **gradients}  # fmt: skip


def write(case: str) -> None:
    model, shapes = make(case)
    found = expected(model, "right")
    gradients = {n: found.pop(n) for n in list(found) if n.startswith("gradient/")}
    products = [families.product(n, gradients[f"gradient/{n}"]) for n in shapes]
    mask, logits = found["mask"], found["logits"]
    np.savez_compressed(
        os.path.join(HERE, f"{case}.npz"),
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
        config=model.config.to_json_string(use_diff=False),
        shapes=json.dumps(shapes),
        logits=logits if logits.ndim == 2 else logits[mask],
        loss=np.float32(found["loss"]),
        products=np.array(products, np.float32),
    )


if __name__ == "__main__":
    os.makedirs(HERE, exist_ok=True)
    for case in sys.argv[1:] or families.CASES:
        write(case)
