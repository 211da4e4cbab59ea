"""Asks llama.cpp about GGUF files, in the environment that has it: see `make test-llama-cpp`.

Standard input: JSON, a list of {"model": path, "prompt": token ids, "steps": n, "texts": [...],
"never": token ids that are not to be chosen}.
Standard output: JSON, for each of them {"tokens": n greedy ones, "logprobs": for each of the n
{token id: natural logarithm of its probability}, of all tokens, "token_ids": of each text}.
"""

import json
import sys
import urllib.request

import xllamacpp

MOST = 1000  # probabilities asked for: all there are of a small vocabulary, the best of a large one


def answer(question: dict) -> dict:
    params = xllamacpp.CommonParams()
    params.model.path = question["model"]
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    params.fit_params = False
    # As exact as it can: neither half precision in the cache nor sums in another order.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    found = post(
        server, "completion",
        {"prompt": question["prompt"], "n_predict": question["steps"], "temperature": 0.0,
         "n_probs": MOST, "cache_prompt": False,
         "logit_bias": [[token, False] for token in question["never"]]},
    )["completion_probabilities"]  # fmt: skip
    asked = [
        {"content": text, "add_special": False, "parse_special": True} for text in question["texts"]
    ]
    return {
        "tokens": [step["id"] for step in found],
        "logprobs": [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in found],
        "token_ids": [post(server, "tokenize", body)["tokens"] for body in asked],
    }


def post(server, name: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{server.listening_address}/{name}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


if __name__ == "__main__":
    print(json.dumps([answer(question) for question in json.load(sys.stdin)]))
