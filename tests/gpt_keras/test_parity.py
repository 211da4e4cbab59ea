"""Numeric parity with Hugging Face transformers: logits, gradients, files.

The ordinary tests read golden files that `write_parity.py` and `write_families.py` of tests/golden
wrote with transformers; those marked `oracle` ask transformers itself.
"""

import json
import pathlib
import runpy
import types

import numpy as np
import pytest
import tensorflow as tf
from safetensors import safe_open

import gpt_keras
from gpt_keras.checkpoint import weights
from gpt_keras.experts import load_balancing

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "parity"
SMOLLM2 = ROOT / "data" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/config.json"))
families = types.SimpleNamespace(**runpy.run_path(ROOT / "tests" / "golden" / "families.py"))

needs_smollm2 = pytest.mark.skipif(
    not SMOLLM2.exists(), reason=f"no {SMOLLM2}: run `python -m examples.fetch_data smollm2`"
)


def read(directory):
    task = gpt_keras.SequenceClassifier if "classifier" in str(directory) else gpt_keras.CausalLM
    return task.from_pretrained(directory)


def inputs_of(config, mask):
    """Inputs of a model beside the token ids."""
    types = families.token_types(mask, config.token_types)
    types = {} if types is None else {"token_type_ids": tf.constant(types, tf.int32)}
    return {"padding_mask": tf.constant(mask), **types}


def gradients(model, token_ids, mask, targets):
    """Loss, logits and the gradient of every tensor under its name in the checkpoint.

    The loss is the mean cross-entropy over targets that are not -100.
    """
    token_ids = tf.constant(token_ids, tf.int32)
    with tf.GradientTape() as tape:
        logits = model(token_ids, **inputs_of(model.config, mask))
        predicted = logits[:, :-1] if len(logits.shape) == 3 else logits
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(np.maximum(targets, 0), predicted)
        counted = tf.cast(targets != -100, tf.float32)
        loss = tf.reduce_sum(losses * counted) / tf.reduce_sum(counted)
    variables = model.trainable_weights
    holder = type(model)(model.config)  # its variables hold gradients, to be named as tensors are
    for variable in holder.non_trainable_weights:
        variable.assign(tf.zeros_like(variable))
    held = holder.trainable_weights
    for variable, gradient in zip(held, tape.gradient(loss, variables), strict=True):
        variable.assign(tf.convert_to_tensor(gradient))
    return float(loss), logits.numpy(), dict(weights.tensors(holder))


def assert_close(ours, theirs, tolerance, what=""):
    """Within `tolerance` of the reference, in units of its largest magnitude (1 at least)."""
    scale = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=what)


def assert_same(model, reference):
    """Logits within 1e-5 and gradients within 1e-4 of `expected.npz`."""
    token_ids, mask, targets = (reference[name] for name in ("token_ids", "mask", "targets"))
    loss, logits, found = gradients(model, token_ids, mask, targets)
    real = mask if logits.ndim == 3 else slice(None)  # what stands at padding is nobody's concern
    assert_close(logits[real], reference["logits"][real], 1e-5)
    assert loss == pytest.approx(float(reference["loss"]), rel=1e-5)
    expected = {k.removeprefix("gradient/"): v for k, v in reference.items() if "gradient/" in k}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_as_transformers_computed_them(case):
    with np.load(GOLDEN / case / "expected.npz") as reference:
        assert_same(read(GOLDEN / case), dict(reference))


@pytest.mark.parametrize("case", CASES)
def test_saved_and_read_again_is_the_same_model(case, tmp_path):
    model = read(GOLDEN / case)
    model.save_pretrained(tmp_path / case)
    again = read(tmp_path / case)
    assert again.config == model.config
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.fixture(params=families.CASES)
def family(request, tmp_path, write_family):
    """(case, its golden file, the model read from a directory with its weights)."""
    folder, golden = write_family(request.param, tmp_path)
    return request.param, golden, read_family(request.param, folder)


def read_family(case, path):
    return getattr(gpt_keras, families.task_of(families.CASES[case][0])).from_pretrained(path)


def test_families_as_transformers_computed_them(family):
    case, golden, model = family
    token_ids, mask = families.padded(83, "right")
    is_one_a_row = families.task_of(families.CASES[case][0]) in (
        "SequenceClassifier",
        "TextEmbedder",
    )
    classes = golden["logits"].shape[-1]
    targets = families.targets_of(token_ids, mask, is_one_a_row, classes)
    loss, logits, found = gradients(model, token_ids, mask, targets)
    assert_close(logits[mask] if logits.ndim == 3 else logits, golden["logits"], 1e-5)
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
    names = json.loads(str(golden["shapes"]))
    assert set(found) == set(names)
    for name, (along, length) in zip(names, golden["products"], strict=True):
        ours = families.product(name, found[name])
        tolerance = 1e-4 * length + 1e-6
        np.testing.assert_allclose(ours, (along, length), rtol=0, atol=tolerance, err_msg=name)


def test_families_saved_and_read_again_are_the_same_model(family, tmp_path):
    case, golden, model = family
    model.save_pretrained(tmp_path / "again")
    again = read_family(case, tmp_path / "again")
    assert again.config == model.config
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    with safe_open(tmp_path / "again" / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(json.loads(str(golden["shapes"])))


@needs_smollm2
def test_smollm2_from_gguf_gives_the_logits_of_transformers():
    rows = json.loads((GOLDEN / "smollm2.json").read_text("utf-8"))["rows"]
    model = gpt_keras.CausalLM.from_pretrained(SMOLLM2)
    tokens = model.tokenizer.tokenize([row["text"] for row in rows])
    assert tokens.to_list() == [row["token_ids"] for row in rows]
    mask = tf.sequence_mask(tokens.row_lengths())
    logits = model(tokens.to_tensor(), padding_mask=mask).numpy()  # (B, T, V)
    for row, found in zip(rows, logits, strict=True):
        for place, ids, values in zip(
            row["positions"], row["top_ids"], row["top_logits"], strict=True
        ):
            np.testing.assert_allclose(found[place, ids], values, atol=1e-3, rtol=0)
            best = np.partition(found[place], -5)[-5:]
            np.testing.assert_allclose(np.sort(best)[::-1], values, atol=1e-3, rtol=0)


LLAMA = {"vocab_size": 83, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
         "num_attention_heads": 6, "pad_token_id": 0, "max_position_embeddings": 64}  # fmt: skip
GPT2 = {"vocab_size": 83, "n_embd": 36, "n_layer": 3, "n_head": 6, "n_positions": 40,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
LABELS = {"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}}
LIVE = {
    "llama_1:1_tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama_1:3": ("LlamaForCausalLM", {"num_key_value_heads": 2}),
    "llama_1:n_tied": ("LlamaForCausalLM", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama_head_dim": ("LlamaForCausalLM", {"num_key_value_heads": 3, "head_dim": 10}),
    "llama_biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama_linear_rope": ("LlamaForCausalLM", {"rope_parameters": LINEAR}),
    "llama_llama3_rope": ("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    "llama_gelu": ("LlamaForCausalLM", {"hidden_act": "gelu", "rms_norm_eps": 1e-3}),
    "llama_classifier": ("LlamaForSequenceClassification", {**LABELS, "num_key_value_heads": 2}),
    "gpt2_tied": ("GPT2LMHeadModel", {}),
    "gpt2_untied": ("GPT2LMHeadModel", {"tie_word_embeddings": False, "n_inner": 55}),
    "gpt2_relu": ("GPT2LMHeadModel", {"activation_function": "relu", "n_head": 4}),
    "gpt2_classifier": ("GPT2ForSequenceClassification", LABELS),
}


def with_any_width(model):
    """The model of transformers; experts have a form for widths that are multiples of 4 alone."""
    if "num_experts_per_tok" in model.config.to_dict():
        model.set_experts_implementation("eager")
    return model


@pytest.fixture(params=[*LIVE, *families.CASES])
def live(request, tmp_path):
    """(the random model in torch, ours read from what transformers saved, its directory)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    name, options = {**LIVE, **families.CASES}[request.param]
    cls = getattr(transformers, name)
    base = LLAMA if request.param in LIVE else families.BASE
    base = GPT2 if cls.config_class is transformers.GPT2Config else base
    torch.manual_seed(len(request.param))
    reference = cls(cls.config_class(**{**base, **options})).eval()
    with_any_width(reference)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    reference.save_pretrained(tmp_path / "theirs")
    task = getattr(gpt_keras, families.task_of(name))
    return reference, task.from_pretrained(tmp_path / "theirs"), tmp_path


@pytest.mark.oracle
@pytest.mark.parametrize("side", ["right", "left"])
def test_live_logits_and_gradients(live, side):
    reference, model, _ = live
    writer = runpy.run_path(str(ROOT / "tests" / "golden" / "write_families.py"))
    assert_same(model, writer["expected"](reference, side))


@pytest.mark.oracle
def test_live_attention_weights(live):
    import torch

    reference, model, _ = live
    reference.set_attn_implementation("eager")  # the only one that gives them
    token_ids = np.random.default_rng(3).integers(3, model.config.vocab_size, (2, 11))
    with torch.no_grad():
        theirs = reference.base_model(torch.tensor(token_ids), output_attentions=True).attentions
    ours = model.backbone.attention_weights(
        token_ids.astype(np.int32), range(model.config.num_layers)
    )
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("live", ["mixtral", "qwen3_moe"], indirect=True)
def test_live_router_loss(live):
    import torch

    reference, model, _ = live
    token_ids, mask = families.padded(83, "right")
    inputs = {"attention_mask": torch.tensor(mask), "output_router_logits": True}
    with torch.no_grad():
        theirs = reference(torch.tensor(token_ids), **inputs).aux_loss
    routing = []
    batch = {"token_ids": token_ids.astype(np.int32), "padding_mask": mask}
    model.features(batch, routing=routing)
    ours = load_balancing(routing, mask, model.config.experts_per_token)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.oracle
def test_live_saved_directory_loads_in_transformers(live):
    import torch

    reference, model, directory = live
    model.save_pretrained(directory / "ours")
    again, info = type(reference).from_pretrained(directory / "ours", output_loading_info=True)
    assert not any(info.values()), info
    again = with_any_width(again)
    token_ids = torch.tensor(families.padded(model.config.vocab_size, "right")[0])
    with torch.no_grad():
        ours, theirs = again(token_ids)[0].numpy(), reference(token_ids)[0].numpy()
    np.testing.assert_array_equal(ours, theirs)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "hidden_size"):
        assert getattr(again.config, name) == getattr(reference.config, name), name


@pytest.mark.oracle
@pytest.mark.slow
@needs_smollm2
def test_live_smollm2_logits_within_1e3_of_transformers_reading_the_same_file():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    golden = json.loads((GOLDEN / "smollm2.json").read_text("utf-8"))
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32
    )
    model = gpt_keras.CausalLM.from_pretrained(SMOLLM2)
    assert len(golden["rows"]) == 20
    for row in golden["rows"]:
        token_ids = np.array([row["token_ids"]])
        with torch.no_grad():
            theirs = reference(torch.tensor(token_ids)).logits.numpy()
        ours = model(token_ids.astype(np.int32)).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0, err_msg=row["text"])
