"""Exports a model directory as a version of a SavedModel that TensorFlow Serving loads as it is.

    python -m export.saved_model --model=DIR --output_dir=models/NAME

With --dry_run it tells what the result will take of a server's memory, and exports nothing.

The version appears in the output folder whole or not at all, and only once it has been shown that
a stock server knows all its ops and that it answers as the Python model does.
"""

import json
import pathlib
import time

import tensorflow as tf
from absl import flags
from tensorflow.python.framework import test_util  # the one place that tells if oneDNN is on

from export import cli, publish, signatures, sizing, stock_ops, turns, verification, warmup
from export.batching import Batcher
from export.capacity import Capacity
from gpt_keras import CausalLM, chat, checkpoint, tasks
from gpt_keras.layers import LAYOUTS

# Flags with defaults of requests.
DEFAULTS = (
    "max_new_tokens", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def export(
    model,
    output_dir,
    version=None,
    with_warmup=True,
    with_verification=True,
    require_chat=False,
    kernels="plain",
    capacity=None,
    chat_variables=None,
    **options,
) -> pathlib.Path:
    """Exports a model and says on the way what it does.

    Args:
      model: a task of `gpt_keras` with a tokenizer.
      output_dir: folder of the model's versions.
      version: number of the version; None for the newest and one.
      with_warmup: write warm-up requests.
      with_verification: compare the answers with those of the Python model.
      require_chat: fail if a CausalLM has no chat template that can be compiled; otherwise its
        signature `chat` is left out.
      kernels: layout of the model's matrices, see `GPTBackbone.lay_out`; unless it is "plain", the
        model at hand can then no longer be trained.
      capacity: a `capacity.Capacity`, for a CausalLM whose requests share their steps; None for a
        loop of each its own.
      chat_variables: dict of variables of the chat template, such as `enable_thinking`.
      **options: see `signatures.of`.

    Returns:
      The directory of the new version.

    Raises:
      ValueError: the model cannot be exported, the version exists, the folder cannot be written, a
        stock server would not run the result, or it answers otherwise than the model.
    """
    template = compile_chat(model, require_chat, chat_variables)
    model.backbone.lay_out(kernels)
    batcher = Batcher(model, capacity) if capacity else None
    entries = signatures.of(model, template, batcher, **options)
    start = time.monotonic()

    def say(line):
        print(f"[{time.monotonic() - start:5.1f} s] {line}", flush=True)

    with publish.new_version(output_dir, version) as (directory, final):
        saved_model = write(model, entries, directory, batcher)
        defs = saved_model.meta_graphs[0].signature_def
        say(f"written: {_size(directory)}")
        check_ops(saved_model)
        say(f"a stock TensorFlow Serving {stock_ops.server_names()} knows all ops of its "
            f"{stock_ops.count_nodes(saved_model):,} nodes")  # fmt: skip
        if with_warmup:
            requests = [warmup.request(n, defs[n], entry.example) for n, entry in entries.items()]
            warmup.write(directory, requests)
        if with_verification:
            context = capacity.context if capacity else None
            verification.verify(directory, model, entries, template, context)
            say("loaded into a plain session, it answers as the Python model does")
    print(describe(defs))
    say(f"published: {final}")
    return final


def kernels_here() -> str:
    """Layout of the matrices that suits this machine, see `export`."""
    return "panels" if test_util.IsMklEnabled() else "slabs"


def load(path):
    """The task that a model directory or file says it is of."""
    return tasks.of(path).from_pretrained(path)


def compile_chat(model, required=False, variables=None):
    """The chat template of a CausalLM as a `chat.CompiledTemplate`; None where there is none.

    Raises:
      ValueError: it is `required`, and missing or not one that can be compiled.
    """
    if not isinstance(model, CausalLM) or model.tokenizer is None:
        return None
    try:
        template = chat.compile_for(model.tokenizer, **(variables or {}))
        if template.refuses:
            takes = ", ".join(template.form.roles)
            print(f"signature `chat` takes fewer messages ({takes}) than the chat template, since: "
                  f"{template.refuses}")  # fmt: skip
        return template
    except ValueError as error:
        if required:
            raise ValueError(f"--require_chat: {error}") from error
        print(f"no signature `chat`: {error}")
    return None


def write(model, entries, directory, batcher=None):
    """Writes a SavedModel.

    Args:
      model: the task whose weights and tokenizer the signatures use.
      entries: name -> `signatures.Signature`.
      directory: to write into.
      batcher: the `batching.Batcher` that the signatures use, if any.

    Returns:
      What `saved_model.pb` holds.

    Raises:
      ValueError: it cannot be written.
    """
    root = tf.Module()
    # The TensorFlow variables themselves: Keras' wrappers would be saved as copies of them.
    root.state = batcher.state if batcher else [variable.value for variable in model.variables]
    root.tokenizer = model.tokenizer
    functions = {name: entry.function for name, entry in entries.items()}
    try:
        tf.saved_model.save(root, str(directory), signatures=functions)
    except tf.errors.OpError as error:  # a full disk, mostly
        raise ValueError(f"the SavedModel cannot be written: {error.message}") from error
    saved_model = stock_ops.read(directory)
    # `tf.saved_model.save` takes every signature for one of Predict.
    for name, entry in entries.items():
        saved_model.meta_graphs[0].signature_def[name].method_name = entry.method_name
    turns.optimize_later(saved_model)
    directory = pathlib.Path(directory)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString(deterministic=True))
    (directory / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was
    return saved_model


def check_ops(saved_model) -> None:
    """Raises a ValueError if a stock server would not run a SavedModel."""
    findings = stock_ops.check(saved_model)
    if findings:
        more = f" (and {len(findings) - 1} more findings)" if len(findings) > 1 else ""
        raise ValueError(f"TensorFlow Serving would not run this model: {findings[0]}{more}")


def describe(signature_defs) -> str:
    """A table of signatures: inputs with their defaults, outputs."""
    lines = []
    for name, signature in sorted(signature_defs.items()):
        if not signature.method_name:
            continue  # TensorFlow's own entry for initialisation
        call = signature.method_name.removeprefix("tensorflow/serving/")
        lines.append(f"{name} ({call})")
        for key, info in sorted(signature.inputs.items()):
            default = ""
            if key in signature.defaults:
                value = tf.make_ndarray(signature.defaults[key])[0]
                default = f" = {value.decode() if isinstance(value, bytes) else f'{value:g}'}"
            lines.append(f"    {key}: {_type(info)}{default}")
        lines += [f"    -> {key}: {_type(info)}" for key, info in sorted(signature.outputs.items())]
    return "\n".join(lines)


def _type(info):
    sizes = [str(dim.size) if dim.size >= 0 else "?" for dim in info.tensor_shape.dim]
    return f"{tf.as_dtype(info.dtype).name} [{', '.join(sizes)}]"


def _size(directory):
    files = [file for file in directory.rglob("*") if file.is_file()]
    graph = (directory / "saved_model.pb").stat().st_size / 1e6
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB, the graph {graph:.1f} MB"


def main():
    tf.get_logger().setLevel("ERROR")  # no word on the age of the loader that the server uses too
    values = flags.FLAGS
    kernels = values.kernels if values.kernels != "auto" else kernels_here()
    if values.dry_run:
        _dry_run(values, kernels)
        return
    if values.output_dir is None:
        raise cli.UsageError("--output_dir is missing (only --dry_run goes without)")
    options = {name: values[name].value for name in DEFAULTS if values[name].present}
    chat_variables = _chat_variables(values.chat_variables)
    publish.check(values.output_dir, values.version)  # before the minutes that the rest may take
    model = load(values.model)
    print(f"{values.model}: {type(model).__name__}, {model.count_params():,} parameters")
    if values.kernels == "auto":
        print(f"oneDNN is {'on' if kernels == 'panels' else 'off'} here: --kernels={kernels}")
    export(
        model,
        values.output_dir,
        values.version,
        values.warmup,
        values.verify,
        values.require_chat,
        kernels,
        _capacity(type(model), model.config, values),
        chat_variables,
        **options,
    )


def _chat_variables(text):
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    taken = {"messages", "add_generation_prompt", "roles", "control_tokens", "template"}
    if not isinstance(found, dict) or taken & found.keys():
        raise cli.UsageError(
            f"--chat_variables={text}: expected a JSON object of variables of the chat template, "
            f'such as {{"enable_thinking": false}}, but not {", ".join(sorted(taken))}'
        )
    return found


def _dry_run(values, kernels):
    config = checkpoint.read_config(values.model)
    task = tasks.of(values.model)
    sizes = sizing.measure(task, config, kernels, _capacity(task, config, values))
    print(f"{values.model}: {task.__name__}, --kernels={kernels}")
    print(sizing.table(sizes))
    gib = values.memory_gib
    print(sizing.room(sizes, sizing.memory_here() if gib is None else gib * sizing.GIB))


def _capacity(task, config, values):
    """What the flags say of batching: a `Capacity`, or None."""
    sizes = {"slots": "max_slots", "context": "max_context", "tokens": "cache_tokens",
             "block": "block_size", "wait": "max_wait"}  # fmt: skip
    if task is CausalLM and values.batching == "continuous":
        return Capacity.of(config, **{k: values[name].value for k, name in sizes.items()})
    for name in sizes.values():
        if values[name].present:
            why = "--batching=none" if task is CausalLM else "a model without generation"
            raise ValueError(f"--{name} is of no use to {why}: leave it out")
    return None


if __name__ == "__main__":
    flags.DEFINE_string(
        "model",
        None,
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub.",
    )
    flags.DEFINE_string("output_dir", None, "Folder of the model's versions, such as models/NAME.")
    flags.DEFINE_integer(
        "version", None, "Number of the version. (default: the newest and one)", lower_bound=1
    )
    flags.DEFINE_integer("max_new_tokens", None, "Tokens, if a request does not say. (default: 64)")
    flags.DEFINE_float("temperature", None, "If a request does not say. (default: 0, best token)")
    flags.DEFINE_integer("top_k", None, "If a request does not say. (default: 0, off)")
    flags.DEFINE_float("top_p", None, "If a request does not say. (default: 1, off)")
    flags.DEFINE_float("min_p", None, "If a request does not say. (default: 0, off)")
    for penalty, off in (("repetition", 1), ("presence", 0), ("frequency", 0)):
        flags.DEFINE_float(
            f"{penalty}_penalty", None, f"If a request does not say. (default: {off}, off)"
        )
    flags.DEFINE_bool("require_chat", False, "Fail if there is no chat template to compile.")
    flags.DEFINE_string(
        "chat_variables", "{}",
        'JSON object of variables of the chat template, such as {"enable_thinking": false}.',
    )  # fmt: skip
    flags.DEFINE_enum(
        "kernels", "auto", ["auto", *LAYOUTS],
        "Layout of the matrices. panels: several rows up to 1.4 times as fast where the server has "
        "oneDNN on (default on CPUs with AVX512-VNNI, AVX-VNNI or AMX; elsewhere by "
        "TF_ENABLE_ONEDNN_OPTS=1), half as fast where it is off. slabs: a row about 1.1 times "
        "as fast where oneDNN is off. auto: what suits this machine.",
    )  # fmt: skip
    flags.DEFINE_enum(
        "batching", "continuous", ["continuous", "none"],
        "continuous: requests that run at once share each step. none: each has a loop of its own.",
    )  # fmt: skip
    flags.DEFINE_integer("max_slots", 16, "Texts in work at once; more wait.")
    flags.DEFINE_integer(
        "max_context", None,
        "Tokens of the longest text, prompt and answer. (default: the model's, at most 8192)",
    )  # fmt: skip
    flags.DEFINE_integer(
        "cache_tokens", None,
        "Tokens that the texts in work may have together; see docs/serving.md for the memory they "
        "take. (default: 256 a slot, and at least --max_context)",
    )  # fmt: skip
    flags.DEFINE_integer("block_size", 16, "Tokens in a block of the cache.")
    flags.DEFINE_float("max_wait", 30.0, "Seconds that a request waits for a slot.")
    flags.DEFINE_bool("warmup", True, "Write requests that warm a server up.")
    flags.DEFINE_bool("verify", True, "Compare the answers with those of the Python model.")
    flags.DEFINE_bool("dry_run", False, "Tell what memory the result will take; export nothing.")
    flags.DEFINE_float(
        "memory_gib", None,
        "dry_run: memory of the machine that is to serve, in GiB. (default: that of this one)",
        lower_bound=0,
    )  # fmt: skip
    flags.mark_flag_as_required("model")
    cli.run(main)
