"""Files that lie about themselves: an error that names the file, no crash, no huge allocation.

FUZZ_SECONDS makes each test go on for so long, with damage that it has not tried yet.
"""

import itertools
import os
import pathlib
import re
import resource
import struct
import time

import gguf
import numpy as np
import pytest

import gpt_keras
from gpt_keras import checkpoint, tokenizers
from gpt_keras.tokenizers import byte_alphabet

CASES = 80
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
MOST = 100e6  # bytes that reading a file of some kilobytes may take
LLAMA = gpt_keras.GPTConfig(
    vocab_size=260, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
    intermediate_size=32, max_position_embeddings=32, tie_embeddings=False, eos_token_ids=(2,),
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
GPT2 = gpt_keras.GPTConfig(
    vocab_size=260, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=64, norm="layer",
    max_position_embeddings=16, activation="gelu_tanh", gated=False, rotary=None, qkv_bias=True,
    attention_output_bias=True, mlp_bias=True, model_type="gpt2",
)  # fmt: skip
CONFIGS = {
    "llama": LLAMA.replace(rotary=gpt_keras.RotaryConfig(5e5, tuple(sorted(LLAMA3.items())))),
    "mixtral": LLAMA.replace(
        model_type="mixtral", num_experts=2, experts_per_token=1, normalize_experts=True
    ),
    "gpt2": GPT2,
}
NUMBERS = [0, 1, 2, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
JSON = ["0", "-1", "1e400", "NaN", "null", "true", '"x"', "[]", "{}", "[" * 10**5, "9" * 5000,
        "1" + "0" * 400, str(2**31), str(2**63), str(10**12), "0.5"]  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    alphabet = [*byte_alphabet.ALPHABET, "he", "Ġt"]
    tokenizer = tokenizers.ByteLevelBPE.from_vocab_and_merges(
        alphabet, [("h", "e"), ("Ġ", "t")], ["<x>"], chat_template="{{ messages }}"
    )
    return gpt_keras.CausalLM(CONFIGS[request.param], tokenizer=tokenizer)


def damaged(data: bytes, header: int, rng, types=()) -> bytes:
    """Bytes that are cut, flipped or overwritten with other numbers, in the header most of all.

    Args:
      types: where the header has numbers of types.
    """
    data, kind = bytearray(data), rng.integers(6 if types else 5)
    if kind == 5:
        data[types[rng.integers(len(types))]] = rng.integers(13)
        return bytes(data)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(header if rng.random() < 0.9 else len(data) - 8))
        if kind == 1:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 2:
            data[at] = rng.integers(256)
        else:  # where there is a number, or a length, four times in five
            width, form = (8, "<Q") if kind == 3 else (4, "<I")
            at = min(at // 4 * 4 if rng.random() < 0.5 else at, len(data) - width)
            number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * width)
            data[at : at + width] = struct.pack(form, number)
    return bytes(data)


def damaged_json(text: str, rng) -> str:
    """Other values for some entries, or bytes that are none of JSON."""
    for _ in range(rng.integers(1, 3)):
        values = [m.span(1) for m in re.finditer(r"(?<=: )([^{\[,}]+|\[[^\]]*\])", text)]
        begin, end = values[rng.integers(len(values))] if values else (0, len(text))
        text = text[:begin] + JSON[rng.integers(len(JSON))] + text[end:]
    return text[: rng.integers(len(text) + 1)] if rng.random() < 0.1 else text


def memory(name: str) -> int:
    """VmRSS, VmHWM or VmSize of this process, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s*(\d+) kB", status)[1])


def read_all(path):
    checkpoint.read_config(path)
    checkpoint.read_sizes(path)
    checkpoint.read_tokenizer(path)
    gpt_keras.CausalLM.from_pretrained(path, with_tokenizer=False)


def check(path, change) -> int:
    """Reads what `change` makes of files; how many of them could be read nevertheless."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory("VmSize") + 8 * 2**30  # what would be more than the machine has is an error
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    read, until = 0, time.monotonic() + SECONDS
    try:
        for seed in itertools.count():
            if seed >= CASES and time.monotonic() > until:
                return read
            change(np.random.default_rng(seed))
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            resident = memory("VmRSS")
            try:
                read_all(path)
                read += 1
            except ValueError as error:
                message = str(error)
                assert message.startswith(str(path)), (seed, message)
                assert "\n" not in message, (seed, message)
                assert len(message) < 1000, (seed, message)
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            assert memory("VmHWM") - resident < MOST, seed
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_gguf(model, tmp_path):
    path = tmp_path / "m.gguf"
    model.save_gguf(path, "Q8_0")
    whole = path.read_bytes()
    reader = gguf.GGUFReader(path)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    types = [field.offset + 8 + len(field.name) for field in fields]
    read = check(path, lambda rng: path.write_bytes(damaged(whole, reader.data_offset, rng, types)))
    assert CASES // 20 < read < CASES  # some damage hits what does not matter


def test_safetensors(model, tmp_path):
    path = tmp_path / "model"
    model.save_pretrained(path, max_shard_size=20_000)
    files = {p: p.read_bytes() for p in path.glob("*.safetensors")}
    texts = {p: p.read_text("utf-8") for p in path.glob("*.json")}
    assert len(files) > 1

    def change(rng):
        for file, data in (files | texts).items():
            file.write_bytes(data if isinstance(data, bytes) else data.encode())
        if rng.random() < 0.5:
            file = sorted(files)[rng.integers(len(files))]
            header = 8 + struct.unpack("<Q", files[file][:8])[0]
            file.write_bytes(damaged(files[file], header, rng))
        else:
            file = sorted(texts)[rng.integers(len(texts))]
            file.write_text(damaged_json(texts[file], rng), "utf-8")

    assert CASES // 20 < check(path, change) < CASES
