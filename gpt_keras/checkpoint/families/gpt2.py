"""GPT-2."""

from gpt_keras.checkpoint.families.family import (
    ACTIVATIONS,
    Family,
    GGUFKeys,
    Key,
    Weight,
    heads,
)

# https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/
# Its Conv1D keeps a matrix as (inputs, outputs), and c_attn joins query, key and value already.
GPT2 = Family(
    model_type="gpt2",
    architectures={
        "CausalLM": "GPT2LMHeadModel",
        "SequenceClassifier": "GPT2ForSequenceClassification",
        "TokenClassifier": "GPT2ForTokenClassification",
        "TextEmbedder": "GPT2Model",
    },
    fixed={
        "norm": "layer", "gated": False, "causal": True, "sliding_window": 0, "rotary": None,
        "num_kv_heads": 0, "head_dim": 0,
        "qkv_bias": True, "attention_output_bias": True, "mlp_bias": True,
    },
    keys={
        "vocab_size": Key(("vocab_size",), int),
        "hidden_size": Key(("n_embd",), int),
        "num_layers": Key(("n_layer",), int),
        "num_heads": Key(("n_head",), int),
        "intermediate_size": Key(("n_inner",), int, 0),  # 0 stands for 4 D
        "max_position_embeddings": Key(("n_positions",), int, 1024),
        "norm_epsilon": Key(("layer_norm_epsilon",), float, 1e-5),
        "tie_embeddings": Key(("tie_word_embeddings",), bool, True),
        "initializer_range": Key(("initializer_range",), float, 0.02),
        "dropout": Key(("resid_pdrop", "embd_pdrop"), float, 0.1),
    },
    activation_key="activation_function",
    activations={**ACTIVATIONS, "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh")},
    activation="gelu_tanh",
    token_ids=(50256, 50256, None),
    supported={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    # Dropout of attention weights is not ours to compute.
    written={"attn_pdrop": 0.0},
    prefix="transformer.",
    weights=(
        Weight("embedding/table", ("wte.weight",)),
        Weight("embedding/head", ("lm_head.weight",)),
        Weight("embedding/positions", ("wpe.weight",), transposed=False),
        Weight("block_{i}/attention_norm/scale", ("h.{i}.ln_1.weight",)),
        Weight("block_{i}/attention_norm/bias", ("h.{i}.ln_1.bias",)),
        Weight("block_{i}/attention/qkv/kernel", ("h.{i}.attn.c_attn.weight",), transposed=False),
        Weight("block_{i}/attention/qkv/bias", ("h.{i}.attn.c_attn.bias",)),
        Weight("block_{i}/attention/out/kernel", ("h.{i}.attn.c_proj.weight",), transposed=False),
        Weight("block_{i}/attention/out/bias", ("h.{i}.attn.c_proj.bias",)),
        Weight("block_{i}/feed_forward_norm/scale", ("h.{i}.ln_2.weight",)),
        Weight("block_{i}/feed_forward_norm/bias", ("h.{i}.ln_2.bias",)),
        Weight("block_{i}/feed_forward/up/kernel", ("h.{i}.mlp.c_fc.weight",), transposed=False),
        Weight("block_{i}/feed_forward/up/bias", ("h.{i}.mlp.c_fc.bias",)),
        Weight("block_{i}/feed_forward/down/kernel", ("h.{i}.mlp.c_proj.weight",),
               transposed=False),
        Weight("block_{i}/feed_forward/down/bias", ("h.{i}.mlp.c_proj.bias",)),
        Weight("final_norm/scale", ("ln_f.weight",)),
        Weight("final_norm/bias", ("ln_f.bias",)),
    ),
    heads=heads(tokens="classifier"),
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks that old versions stored
    # https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py, class GPT2Model
    gguf=GGUFKeys(
        architecture="gpt2",
        keys={
            "vocab_size": "vocab_size",
            "n_embd": "embedding_length",
            "n_layer": "block_count",
            "n_head": "attention.head_count",
            "n_inner": "feed_forward_length",
            "n_positions": "context_length",
            "layer_norm_epsilon": "attention.layer_norm_epsilon",
        },
        transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),
    ),
)  # fmt: skip
