"""Asks a server over gRPC: ours, or a stock TensorFlow Serving.

    python -m export.client generate --server=localhost:8500 --model_name=NAME --prompt="..."
    python -m export.client chat     --server=localhost:8500 --model_name=NAME --message="..."
    python -m export.client classify --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client embed    --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client regress  --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client status   --server=localhost:8500 --model_name=NAME

Exit status 0: answered. 1: the server said no, or was not there. 2: misused.
"""

from collections.abc import Sequence
from pathlib import Path

import grpc
from absl import flags

from export import cli
from export.client import TIMEOUT, Client, Generation, ServerError

# Options of a generation that can be sent, with the flag that reads each.
OPTIONS = {
    "max_new_tokens": (flags.DEFINE_integer, "Most tokens to generate."),
    "temperature": (flags.DEFINE_float, "Above 0 to sample; 0 takes the best token."),
    "top_k": (flags.DEFINE_integer, "Sample from the k best tokens; 0 is off."),
    "top_p": (flags.DEFINE_float, "Sample from the best tokens with this much probability."),
    "min_p": (flags.DEFINE_float, "Leave out tokens less likely than this share of the best."),
    "repetition_penalty": (flags.DEFINE_float, "Above 1 to repeat less; 1 is off."),
    "presence_penalty": (flags.DEFINE_float, "Off the logit of tokens that were there; 0 is off."),
    "frequency_penalty": (flags.DEFINE_float, "The same, once for each time; 0 is off."),
    "seed": (flags.DEFINE_integer, "Makes sampling repeatable; negative for a fresh one."),
    "stop": (flags.DEFINE_multi_string, "Text to stop at. Repeatable."),
}


def main(command: str) -> None:
    values = flags.FLAGS
    try:
        place = (values.server, values.model_name, values.version)
        with Client(*place, values.timeout, _credentials(values)) as client:
            _COMMANDS[command](client, values)
    except ServerError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _generate(client: Client, values: flags.FlagValues) -> None:
    prompts = _given(values, "prompt")
    _print_generations(client.generate(prompts, **_options(values)))


def _chat(client: Client, values: flags.FlagValues) -> None:
    turns = [{"role": "system", "content": values.system}] if values.system is not None else []
    (message,) = _given(values, "message")
    turns.append({"role": "user", "content": message})
    _print_generations(client.chat(turns, **_options(values)))


def _classify(client: Client, values: flags.FlagValues) -> None:
    texts = _given(values, "text")
    for text, found in zip(texts, client.classify(texts, values.pair), strict=True):
        scores = "  ".join(
            f"{label} {score:.3f}" for label, score in zip(found.labels, found.scores, strict=True)
        )
        print(f"{scores}\t{text}")


def _embed(client: Client, values: flags.FlagValues) -> None:
    for embedding in client.embed(_given(values, "text")):
        print(" ".join(f"{x:.6g}" for x in embedding))


def _regress(client: Client, values: flags.FlagValues) -> None:
    texts = _given(values, "text")
    for text, found in zip(texts, client.regress(texts, values.pair), strict=True):
        print(f"{found:.4f}\t{text}")


def _status(client: Client, values: flags.FlagValues) -> None:
    for entry in client.status():
        print(f"version {entry.version}: {entry.state} {entry.error}".rstrip())


_COMMANDS = {
    "generate": _generate, "chat": _chat, "classify": _classify, "regress": _regress,
    "embed": _embed, "status": _status,
}  # fmt: skip


def _credentials(values: flags.FlagValues) -> grpc.ChannelCredentials | None:
    names = ("ca_file", "key_file", "cert_file")
    if all(values[name].value is None for name in names):
        return None
    if values.ca_file is None or (values.key_file is None) != (values.cert_file is None):
        raise cli.UsageError(
            "TLS takes --ca_file, and --key_file with --cert_file where the server wants to know "
            "who asks"
        )
    files = [values[name].value for name in names]
    return grpc.ssl_channel_credentials(*(file and Path(file).read_bytes() for file in files))


def _given(values: flags.FlagValues, name: str) -> list[str]:
    value = values[name].value
    if value is None:
        raise cli.UsageError(f"--{name} is missing")
    return value if isinstance(value, list) else [value]


def _options(values: flags.FlagValues) -> dict[str, object]:
    """Those that were given; the model has defaults for the others."""
    return {name: values[name].value for name in OPTIONS if values[name].value is not None}


def _print_generations(generations: Sequence[Generation]) -> None:
    for generation in generations:
        print(generation.text)


def define_flags() -> None:
    flags.DEFINE_string("server", "localhost:8500", "host:port of the server's gRPC.")
    flags.DEFINE_string("model_name", "default", "Name of the model.")
    flags.DEFINE_integer("version", None, "Version of the model. (default: the newest)")
    flags.DEFINE_float(
        "timeout", TIMEOUT, "Seconds to wait; the server stops then too.", lower_bound=0
    )
    flags.DEFINE_string("ca_file", None, "PEM file; asks with TLS a server that it vouches for.")
    flags.DEFINE_string("key_file", None, "PEM file with a key, for servers that ask for one.")
    flags.DEFINE_string("cert_file", None, "PEM file with the certificate of that key.")
    flags.DEFINE_multi_string("prompt", None, "generate: text to go on from. Repeatable.")
    flags.DEFINE_string("message", None, "chat: what the user says.")
    flags.DEFINE_string("system", None, "chat: instructions to the model, before the message.")
    flags.DEFINE_multi_string("text", None, "classify, regress, embed: a text. Repeatable.")
    flags.DEFINE_multi_string("pair", None, "The second text of each, of a model of pairs.")
    for name, (define, text) in OPTIONS.items():
        define(name, None, f"generate, chat: {text} (default: the model's)")


if __name__ == "__main__":
    define_flags()
    cli.run(main, tuple(_COMMANDS))
