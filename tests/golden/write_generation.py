"""Writes greedy continuations by transformers on torch: tests/golden/generation_smollm2.json.

    python tests/golden/write_generation.py --gguf=data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The texts are those of the parity tests. Beside each token stands its margin: the two best logits'
difference. A margin below 1e-3 is a tie that rounding may break either way.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

GOLDEN = Path(__file__).resolve().parent
STEPS = 32


def continuation(model, token_ids):
    """Ids and margins of STEPS greedy tokens; shorter where a stop token ends it."""
    with torch.no_grad():
        result = model.generate(
            torch.tensor([token_ids]), attention_mask=torch.ones(1, len(token_ids)),
            max_new_tokens=STEPS, do_sample=False, output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
    ids = result.sequences[0, len(token_ids) :].tolist()
    best = [torch.topk(scores[0], 2).values for scores in result.scores]
    return ids, [round(float(two[0] - two[1]), 5) for two in best]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gguf", type=Path, required=True)
    gguf = parser.parse_args().gguf
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    rows = []
    for row in json.loads((GOLDEN / "parity" / "smollm2.json").read_text("utf-8"))["rows"]:
        ids, margins = continuation(model, row["token_ids"])
        rows.append(
            {"text": row["text"], "token_ids": row["token_ids"], "ids": ids, "margins": margins}
        )
    written = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "file": gguf.name,
        "rows": rows,
    }
    path = GOLDEN / "generation_smollm2.json"
    path.write_text(json.dumps(written, ensure_ascii=False, indent=None) + "\n", "utf-8")


if __name__ == "__main__":
    main()
