"""GPTConfig: derived fields, validation, JSON."""

import dataclasses
import json
import subprocess
import sys

import pytest

from gpt_keras.config import GPTConfig, RotaryConfig

BASE = {"vocab_size": 10, "hidden_size": 12, "num_layers": 2, "num_heads": 6,
        "intermediate_size": 20}  # fmt: skip


def test_derived_fields():
    config = GPTConfig(**BASE)
    assert (config.num_kv_heads, config.head_dim) == (6, 2)
    config = GPTConfig(**{**BASE, "num_kv_heads": 2, "head_dim": 8})
    assert (config.num_kv_heads, config.head_dim) == (2, 8)
    assert GPTConfig(**{**BASE, "hidden_size": 13, "head_dim": 2}).head_dim == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 0}, "vocab_size=0: expected a positive integer"),
        ({"num_layers": 2.0}, "num_layers=2.0"),
        ({"num_layers": True}, "num_layers=True"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"hidden_size": 13}, "hidden_size=13 is not a multiple of num_heads=6"),
        ({"num_kv_heads": 4}, "num_heads=6 is not a multiple of num_kv_heads=4"),
        ({"head_dim": 3}, "head_dim=3: rotary positions need an even head width"),
        ({"norm": "batch"}, "norm='batch': expected one of"),
        ({"activation": "swish"}, "activation='swish'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"sliding_window": -1}, "sliding_window=-1"),
        ({"num_experts": 4}, "experts_per_token=0: expected 1 to num_experts=4"),
        ({"num_experts": 2, "experts_per_token": 3}, "experts_per_token=3: expected 1 to"),
        ({"num_experts": 2, "experts_per_token": 1, "mlp_bias": True}, "experts have no biases"),
        ({"norm_place": "middle"}, "norm_place='middle': expected one of"),
        ({"token_types": -1}, "token_types=-1: expected 0"),
        ({"qk_norm": "all"}, "qk_norm='all': expected one of"),
        ({"parallel_residual": True, "norm_place": "both"}, "norm_place='both'"),
        ({"rotary": RotaryConfig(fraction=0.5)}, "0.5 of it is 1"),
        ({"rotary": RotaryConfig(fraction=2.0)}, "2 of it is 4"),
        ({"sliding_window": 3, "local_rotary": RotaryConfig(fraction=0.0)}, "0 of it is 0"),
        ({"logits_softcap": -1.0}, "logits_softcap=-1.0"),
        ({"eos_token_ids": (2, -1)}, "token id -1"),
        ({"pad_token_id": -1}, "token id -1"),
    ],
)
def test_validation(changes, words):
    with pytest.raises(ValueError) as caught:
        GPTConfig(**{**BASE, **changes})
    assert words in str(caught.value)
    if "hidden_size" not in changes:
        with pytest.raises(ValueError):  # a copy is validated too
            GPTConfig(**BASE).replace(**changes)


def test_layers_that_differ():
    local, main = RotaryConfig(10.0), RotaryConfig(20.0)
    config = GPTConfig(**{**BASE, "num_layers": 7}, sliding_window=4, rotary=main,
                       window_layers=(True, True, False) * 3, rotary_layers=(True, False),
                       local_rotary=local)  # fmt: skip
    assert config.window_layers == (True, True, False)
    assert [config.window_of(i) for i in range(7)] == [4, 4, 0, 4, 4, 0, 4]
    assert [config.rotary_of(i) for i in range(7)] == [
        local, None, main, None, local, None, local
    ]  # fmt: skip
    assert (config.windows, config.rotaries) == ((4, 0), (local, main))
    alike = config.replace(num_layers=1)
    assert (alike.windows, alike.rotaries) == ((4,), (local,))


def test_layers_that_do_not():
    config = GPTConfig(**BASE, sliding_window=4, window_layers=(True,) * 5)
    assert config == GPTConfig(**BASE, sliding_window=4)
    config = GPTConfig(**BASE, window_layers=(True, False), rotary=None, rotary_layers=(False,))
    assert config == GPTConfig(**BASE, rotary=None)
    assert (config.windows, config.rotaries) == ((0,), ())


def test_json_round_trip():
    scaling = (("factor", 2.0), ("rope_type", "linear"))
    for config in (
        GPTConfig(**BASE),
        GPTConfig(**BASE, rotary=RotaryConfig(5e5, scaling), id2label=("a", "b"), bos_token_id=0),
        GPTConfig(
            **BASE,
            sliding_window=2,
            window_layers=(True, False),
            rotary_layers=(False, True),
            rotary=RotaryConfig(1e4, (("long_factor", (1.0, 2.0)),), 1.0),
            local_rotary=RotaryConfig(1e3),
        ),
        GPTConfig(**BASE, rotary=None, eos_token_ids=(3, 4), causal=False, dropout=0.1),
    ):
        again = GPTConfig.from_dict(json.loads(json.dumps(config.to_dict())))
        assert again == config
        assert hash(again) == hash(config)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig(**BASE).num_layers = 3


def test_importable_without_tensorflow():
    code = (
        "import importlib.util, sys;"
        "s = importlib.util.spec_from_file_location('config', sys.argv[1]);"
        "m = importlib.util.module_from_spec(s); sys.modules['config'] = m;"
        "s.loader.exec_module(m); m.GPTConfig(9, 4, 1, 2, 8);"
        "assert 'tensorflow' not in sys.modules"
    )
    path = sys.modules[GPTConfig.__module__].__file__
    subprocess.run([sys.executable, "-c", code, path], check=True)
