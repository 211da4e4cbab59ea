"""The files in which sentence-transformers says how a text's tokens become one vector.

https://github.com/huggingface/sentence-transformers: `modules.json` lists the steps, each with a
folder of its own.
"""

import json
import os

from gpt_keras.checkpoint.fields import Fields
from gpt_keras.pooling import SentenceEmbedding

MODULES = "modules.json"
LENGTH = "sentence_bert_config.json"
_POOLING = "1_Pooling"
FILES = {MODULES, LENGTH, _POOLING, "config_sentence_transformers.json"}
_MODES = {
    "mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}  # fmt: skip
_MODE = "pooling_mode_"


def has(directory: str) -> bool:
    """Whether a directory says it is a sentence-transformers model."""
    return os.path.isfile(os.path.join(directory, MODULES))


def read(directory: str) -> SentenceEmbedding:
    """What the files of a directory say.

    Raises:
      ValueError: a module or a way of pooling that is not ours; names file and value.
    """
    path = os.path.join(directory, MODULES)
    modules = _modules(path)
    kinds = [str(module.get("type")).rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ValueError(
            f"{path}: modules {', '.join(kinds)}: unsupported; supported are Transformer, Pooling "
            "and, after them, Normalize"
        )
    folder = os.path.join(directory, os.path.basename(str(modules[1].get("path"))))
    length = os.path.join(directory, LENGTH)
    return SentenceEmbedding(
        pooling=_pooling(Fields.read(os.path.join(folder, "config.json"))),
        normalize="Normalize" in kinds,
        max_length=_max_length(Fields.read(length)) if os.path.isfile(length) else None,
    )


def _modules(path):
    try:
        with open(path, encoding="utf-8") as file:
            modules = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}; get the file anew") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{path}: expected a JSON array of objects")
    return modules


def _pooling(fields: Fields) -> str:
    chosen = [k for k, v in fields.values.items() if k.startswith(_MODE) and v is True]
    named = [pooling for pooling, key in _MODES.items() if [key] == chosen]
    if not named:
        raise ValueError(
            f"{fields.where}: {', '.join(chosen) or 'no way of pooling'}: unsupported; supported "
            f"is one of {', '.join(_MODES.values())}"
        )
    if not fields.get("include_prompt", bool, True):
        raise fields.error("include_prompt", "unsupported; supported is true")
    return named[0]


def _max_length(fields: Fields) -> int | None:
    if fields.get("do_lower_case", bool, False):
        raise fields.error("do_lower_case", "unsupported here; the tokenizer has to do it")
    return fields.get("max_seq_length", int, None)


def write(embedding: SentenceEmbedding, width: int, directory: str) -> None:
    """Writes the files.

    Args:
      embedding: what they are to say.
      width: of the vectors.
      directory: the model's.
    """
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * embedding.normalize
    paths = ["", _POOLING, "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    modes = {key: embedding.pooling == name for name, key in _MODES.items()}
    length = {"max_seq_length": embedding.max_length, "do_lower_case": False}
    os.mkdir(os.path.join(directory, _POOLING))
    for name, values in (
        (MODULES, modules),
        (LENGTH, length),
        (os.path.join(_POOLING, "config.json"), {"word_embedding_dimension": width, **modes}),
    ):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
            file.write("\n")
