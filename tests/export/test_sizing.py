"""What a dry run says of memory, beside what an export then has."""

import math
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

import gpt_keras
from export import batching, saved_model, signatures, sizing, stock_ops
from export.capacity import Capacity
from export.capacity import memories as memories_of
from gpt_keras.layers import LAYOUTS

GIB = sizing.GIB
CONFIG = gpt_keras.GPTConfig(
    vocab_size=97, hidden_size=24, num_layers=3, num_heads=4, num_kv_heads=2, intermediate_size=40,
    max_position_embeddings=100, bos_token_id=0,
)  # fmt: skip
CAPACITY = Capacity.of(CONFIG, slots=5, context=90, tokens=1000, block=8)


def size_of(tensors):
    return sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in tensors)


def variables(directory):
    """(shape, dtype) of each variable on disk."""
    reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
    dtypes = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return [(shapes[k], dtypes[k]) for k in shapes if dtypes[k] != tf.string]


def memories(directory):
    """Name -> (shape, dtype) of each memory that the SavedModel makes when it is loaded."""
    graph = stock_ops.read(directory).meta_graphs[0].graph_def
    found = {}
    for node in [*graph.node, *(n for f in graph.library.function for n in f.node_def)]:
        name = node.attr["shared_name"].s.decode()
        if node.op == "VarHandleOp" and name.startswith("batcher_"):
            shape = [dim.size for dim in node.attr["shape"].shape.dim]
            found[name.split("_", 2)[-1]] = (shape, node.attr["dtype"].type)
    return found


@pytest.mark.parametrize("kernels", LAYOUTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "num_experts": 3,
            "experts_per_token": 2,
            "qk_norm": "head",
            "sliding_window": 5,
            "window_layers": (True, False),
        },
        {"rotary": None, "norm": "layer", "gated": False, "tie_embeddings": False},
    ],
    ids=["llama", "experts", "gpt2"],
)
def test_sizes_of_an_export(tmp_path, kernels, changes):
    config = CONFIG.replace(**changes)
    sizes = sizing.measure(gpt_keras.CausalLM, config, kernels, CAPACITY)
    model = gpt_keras.CausalLM(config)
    model.backbone.lay_out(kernels)
    batcher = batching.Batcher(model, CAPACITY)
    entries = signatures.causal_lm(model, batcher=batcher)
    saved_model.write(model, {"stats": entries["stats"]}, tmp_path, batcher)
    assert sizes.weights == size_of(variables(tmp_path))
    kept = memories(tmp_path)
    assert set(kept) == set(memories_of(model.config, CAPACITY, "float32"))
    assert sizes.slots + sizes.cache + sizes.fixed == size_of(kept.values())
    (_, block, _), _ = kept["pool"]
    per_block = size_of([kept["pool"]]) // (CAPACITY.blocks + 1)
    assert sizes.token == per_block / block
    assert sizes.cache == sizes.token * 1000


def test_a_slot(tmp_path):
    small = sizing.measure(gpt_keras.CausalLM, CONFIG, capacity=CAPACITY)
    capacity = Capacity.of(CONFIG, slots=9, context=90, tokens=1000, block=8)
    large = sizing.measure(gpt_keras.CausalLM, CONFIG, capacity=capacity)
    assert (small.slot, small.fixed) == (large.slot, large.fixed)
    assert large.slots - small.slots == 4 * small.slot
    made = size_of((spec.shape, spec.dtype) for spec in memories_of(
        CONFIG, capacity, "float32").values())  # fmt: skip
    assert large.slots + large.cache + large.fixed == made


def test_a_classifier(classifier):
    config = classifier.model.config
    sizes = sizing.measure(gpt_keras.SequenceClassifier, config)
    assert sizes.weights == sizes.total == size_of(variables(classifier.saved_model_dir))
    assert sizing.room(sizes, 4 * GIB) == "4.0 GiB are enough"


def test_what_a_machine_holds():
    sizes = sizing.measure(gpt_keras.CausalLM, CONFIG, capacity=CAPACITY)
    left = 10 * sizes.total
    tokens, texts = sizes.tokens_in(left), sizes.texts_in(left)
    for capacity in (
        Capacity.of(CONFIG, 5, 90, tokens, 8),
        Capacity.of(CONFIG, texts, 90, texts * 96, 8),
    ):
        most = sizing.measure(gpt_keras.CausalLM, CONFIG, capacity=capacity).total
        assert 0.95 * left < most <= left
    said = sizing.room(sizes, left + sizing.SERVER)
    assert f"--max_slots=5 --cache_tokens={tokens}\n" in said
    assert f"--max_slots={texts} --cache_tokens={texts * 96}  (each text as long" in said
    assert sizing.room(sizes, sizes.total + sizing.SERVER)
    with pytest.raises(ValueError, match=r"^2\.0 GiB are too little: 2\.0 GiB are needed; take"):
        sizing.room(sizes, sizes.total - 1 + sizing.SERVER)
    alone = sizing.measure(gpt_keras.CausalLM, CONFIG)
    assert alone.tokens_in(alone.weights + 10 * sizes.token) == 10
    with pytest.raises(ValueError, match=r"needed$"):
        sizing.room(alone, GIB)


def dry_run(folder, *args):
    command = [sys.executable, "-m", "export.saved_model", f"--model={folder}", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program(tmp_path):
    folder = tmp_path / "model"
    gpt_keras.CausalLM(CONFIG).save_pretrained(folder)
    given = ["--max_slots=5", "--max_context=90", "--cache_tokens=1000", "--block_size=8"]
    result = dry_run(folder, "--dry_run", "--memory_gib=4", "--kernels=plain", *given)
    assert result.returncode == 0, result.stderr
    sizes = sizing.measure(gpt_keras.CausalLM, CONFIG, "plain", CAPACITY)
    said = [f"{folder}: CausalLM, --kernels=plain", sizing.table(sizes)]
    assert result.stdout == "\n".join([*said, sizing.room(sizes, 4 * GIB), ""])
    assert re.search(rf"{sizes.token:,} bytes a token, --cache_tokens=1000\n", result.stdout)
    assert re.search(rf"{sizes.slot:,} bytes each, --max_slots=5\n", result.stdout)
    assert os.listdir(tmp_path) == ["model"]
    result = dry_run(folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("error: --output_dir is missing (only --dry_run goes without)\n")
