"""Model directories in Hugging Face layout: safetensors in, safetensors out."""

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gpt_keras.checkpoint import hf_config, sentence_modules, weights
from gpt_keras.checkpoint.fields import Fields

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
CARD = "README.md"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_SIZE = 5 * 10**9  # bytes
_DTYPES = {
    "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16,
    "float64": np.float64,
}  # fmt: skip
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_TOKENIZER = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
}  # fmt: skip


class SafetensorsSource:
    """Tensors of `model.safetensors`, or of the shards of its index. A `weights.TensorSource`."""

    def __init__(self, directory: str):
        self.where = directory
        self._tensors = {}  # name -> (path, dtype, shape, byte of the file where it begins)
        single, index = _weight_files(directory)
        if os.path.isfile(single):
            self.where = single
            self._add(single)
        elif os.path.isfile(index):
            shards = set(map(str, Fields.read(index).get("weight_map", dict).values()))
            for shard in sorted(shards):
                path = os.path.join(directory, os.path.basename(shard))
                if not os.path.isfile(path):
                    raise ValueError(f"{path}: missing; {index} names it as a shard")
                self._add(path)
        else:
            raise ValueError(_no_weights(directory))

    def _add(self, path):
        try:
            with safe_open(path, framework="np"):  # checks the header, and that the file holds it
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: truncated or damaged safetensors file: {error}") from None
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8))
        header.pop("__metadata__", None)
        for name, info in header.items():
            begin = start + info["data_offsets"][0]
            self._tensors[name] = path, info["dtype"], tuple(info["shape"]), begin

    def names(self):
        return set(self._tensors)

    def shape(self, name):
        return self._tensors[name][2] if name in self._tensors else None

    def dtype(self, name):
        return self._tensors[name][1]

    def pieces(self, name):
        path, dtype, shape, begin = self._tensors[name]
        if dtype not in _FLOATS:
            raise ValueError(
                f"{path}: tensor {name} has dtype {dtype}; supported are "
                f"{', '.join(sorted(_FLOATS))}"
            )
        rows, width = weights.rows_at_once(shape), math.prod(shape[1:])
        with open(path, "rb") as file:  # what is mapped counts as memory beside the copy
            file.seek(begin)
            for row in range(0, shape[0], rows):
                count = min(rows, shape[0] - row)
                yield np.fromfile(file, _FLOATS[dtype], count * width).reshape(count, *shape[1:])


def has_weights(directory: str) -> bool:
    """Whether there is anything for a `SafetensorsSource` to read."""
    return any(map(os.path.isfile, _weight_files(directory)))


def has_tokenizer(directory: str) -> bool:
    """Whether there is a tokenizer, of whatever kind."""
    names = ("tokenizer.json", "tokenizer.model")
    return any(os.path.isfile(os.path.join(directory, name)) for name in names)


def _weight_files(directory: str) -> tuple[str, str]:
    return os.path.join(directory, WEIGHTS), os.path.join(directory, INDEX)


def _no_weights(directory: str) -> str:
    names = os.listdir(directory)
    if any(n.endswith((".bin", ".pt", ".pth", ".ckpt")) for n in names):
        return (
            f"{directory}: holds no {WEIGHTS}, only a pickled checkpoint, which is never read: "
            "convert it to safetensors where it was made"
        )
    return f"{directory}: holds no {WEIGHTS} and no {INDEX}"


def read_fields(directory: str) -> Fields:
    """Entries of config.json, with the token ids that generation_config.json sets differently."""
    path = os.path.join(directory, CONFIG)
    if not os.path.isfile(path):
        found = ", ".join(sorted(os.listdir(directory))[:5]) or "nothing"
        raise ValueError(f"{directory}: no model directory: it has no {CONFIG} (found {found})")
    fields = Fields.read(path)
    generation = read_generation_config(directory)
    values = dict(fields.values)
    # What ends a generation is Hugging Face's generation_config to say (chat models differ there).
    if generation.get("eos_token_id") is not None:
        values["eos_token_id"] = generation["eos_token_id"]
    for key in ("bos_token_id", "pad_token_id"):
        if values.get(key) is None and generation.get(key) is not None:
            values[key] = generation[key]
    return Fields(values, path)


def read_generation_config(directory: str) -> dict:
    path = os.path.join(directory, GENERATION_CONFIG)
    return dict(Fields.read(path).values) if os.path.isfile(path) else {}


def stored_dtype(directory: str) -> str:
    """What the weights were written in, as config.json says; float32 if it does not."""
    fields = read_fields(directory).values
    name = fields.get("dtype", fields.get("torch_dtype"))
    return name if name in _DTYPES else "float32"


def save(
    model,
    path: str,
    dtype=None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    card: str | None = None,
) -> None:
    """Writes a model directory beside `path` and renames it once it is whole.

    Args, errors: see `tasks.Task.save_pretrained`.
    """
    path = os.path.realpath(path)  # a link stays, what it leads to is replaced
    check_target(path)
    dtype = checked_dtype(dtype or model.weights[0].dtype)
    max_shard_size = _bytes(max_shard_size)
    config = _config_dict(model)
    config["torch_dtype"] = dtype.name  # which transformers 4 and 5 both read
    with whole(path) as partial:
        write_json(os.path.join(partial, CONFIG), config)
        write_json(os.path.join(partial, GENERATION_CONFIG), _generation_dict(model, config))
        _write_weights(model, partial, dtype, max_shard_size)
        if model.tokenizer is not None:
            model.tokenizer.save(partial)
        if model.embedding is not None:
            sentence_modules.write(model.embedding, config["hidden_size"], partial)
        if card is not None:
            with open(os.path.join(partial, CARD), "w", encoding="utf-8") as file:
                file.write(card)


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """A new directory beside `path`, which gets that name once it is written without an error."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        os.chmod(partial, 0o777 & ~_umask())
        yield partial
        _publish(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _config_dict(model) -> dict:
    config = model.config
    values = hf_config.to_dict(config, type(model).__name__, model.is_ours)
    if config.pad_token_id is None and config.id2label:
        # Hugging Face finds the token to pool by looking for the padding.
        pad = getattr(model.tokenizer, "pad_token_id", None)
        values["pad_token_id"] = next((i for i in (pad, *config.eos_token_ids) if i is not None),
                                      None)  # fmt: skip
    return values


def _generation_dict(model, config: dict) -> dict:
    ids = {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    values = {**model.generation_config, **ids}
    return {k: v for k, v in values.items() if v is not None}


def check_target(path: str) -> None:
    """Raises a ValueError if something lies at `path` that a model directory may not replace."""
    names = set(os.listdir(path)) if os.path.isdir(path) else set()
    ours = {n for n in names if n.endswith(".safetensors")} | _TOKENIZER
    if CARD in names and _is_card(os.path.join(path, CARD)):
        ours.add(CARD)
    check_replaceable(path, ours | {CONFIG, GENERATION_CONFIG, INDEX} | sentence_modules.FILES)


def check_replaceable(path: str, ours: Collection[str]) -> None:
    """Raises a ValueError if something else than names of `ours` lies at `path`."""
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        raise ValueError(f"{path}: is a file; give a directory to write the model to")
    foreign = sorted(set(os.listdir(path)) - set(ours))
    if foreign:
        raise ValueError(
            f"{path}: holds {', '.join(foreign[:3])}, which a model directory written here would "
            "replace; give a new directory"
        )


def _is_card(path: str) -> bool:
    """Whether it was written for a model of this package: people write a README.md too."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return "\nlibrary_name: gpt-keras\n" in file.read(1000)


def checked_dtype(name) -> np.dtype:
    """The dtype of that name. Raises ValueError for one that no weights are written in."""
    if name not in _DTYPES:
        raise ValueError(f"dtype={name!r}: expected one of {', '.join(_DTYPES)}")
    return np.dtype(_DTYPES[name])


def _bytes(size: int | str) -> int:
    """A number of bytes, or a text such as "5GB"."""
    found = re.fullmatch(r"([1-9]\d*) ?([KMG]?B)?", str(size).upper())
    if not found:
        raise ValueError(f"max_shard_size={size!r}: expected bytes, or a text such as '5GB'")
    return int(found[1]) * {None: 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[found[2]]


def cast(tensors, dtype: np.dtype):
    """Named tensors in a dtype. Raises ValueError for a value that it cannot hold."""
    for name, tensor in tensors:
        with np.errstate(over="ignore"):
            values = tensor.astype(dtype, copy=False)
        if dtype == np.float16 and not np.isfinite(values).all() and np.isfinite(tensor).all():
            raise ValueError(
                f"dtype=float16: tensor {name} has the value {np.abs(tensor).max():g}, float16 "
                "holds 65504 at most; take bfloat16"
            )
        yield name, values


def _write_weights(model, directory: str, dtype: np.dtype, max_shard_size: int) -> None:
    shards, total = [], 0  # names of each shard
    for shard in _shards(cast(weights.tensors(model), dtype), max_shard_size):
        # The total of shards is unknown yet, so a shard gets its final name at the end.
        partial = os.path.join(directory, f"{len(shards)}.partial")
        try:
            save_file(shard, partial, metadata={"format": "pt"})
        except SafetensorError as error:  # such as a full disk
            raise OSError(f"{partial}: {error}") from error
        shards.append(list(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    weight_map = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else WEIGHTS
        partial = os.path.join(directory, f"{i}.partial")
        os.chmod(partial, 0o666 & ~_umask())  # safetensors lets the owner alone read it
        os.rename(partial, os.path.join(directory, file))
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(os.path.join(directory, INDEX), index)


def _shards(tensors, max_shard_size: int) -> Iterator[dict[str, np.ndarray]]:
    shard, size = {}, 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_size:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _publish(partial: str, path: str) -> None:
    """Renames the finished directory; the former one exists under some name until it is done."""
    if not os.path.isdir(path):
        os.rename(partial, path)
        return
    former = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.old.", dir=os.path.dirname(path))
    os.rename(path, former)  # onto an empty directory
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(former, path)
        raise
    shutil.rmtree(former)


def write_json(path: str, values: dict) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
