"""Asks a server over gRPC: ours, or a stock TensorFlow Serving.

    python -m export.client generate --server=localhost:8500 --model_name=NAME --prompt="..."
    python -m export.client chat     --server=localhost:8500 --model_name=NAME --message="..."
    python -m export.client score    --server=localhost:8500 --model_name=NAME --prompt="..." \\
        --completion="..." --completion="..."
    python -m export.client classify --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client embed    --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client rank     --server=localhost:8500 --model_name=NAME --query="..." \\
        --document="..." --document="..."
    python -m export.client regress  --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client fill_mask --server=localhost:8500 --model_name=NAME --text="... [MASK]"
    python -m export.client tag      --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client relations --server=localhost:8500 --model_name=NAME --text="..." \\
        --entities="[[0, 3], [13, 19]]"
    python -m export.client answer   --server=localhost:8500 --model_name=NAME --question="..." \\
        --context="..."
    python -m export.client status   --server=localhost:8500 --model_name=NAME

An answer to a text is a line, with the text behind it.

Exit status 0: answered. 1: the server said no, or was not there. 2: misused.
"""

import functools
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

# Texts that can be sent: one for each row, or one for all.
TEXTS = {
    "prompt": "generate, score: text to go on from.",
    "completion": "score: text after the prompt, whose log-probability and number of tokens are "
    "printed.",
    "text": "classify, regress, embed, fill_mask, tag, relations: a text.",
    "pair": "classify, regress: the second text of a row, for a model of pairs.",
    "query": "rank: a question or the like.",
    "document": "rank: what may answer it.",
    "entities": "relations: where those of a text stand, in characters: [[0, 3], [13, 19]].",
    "question": "answer: a question.",
    "context": "answer: a text that the answer stands in.",
}


def main(command: str) -> None:
    values = flags.FLAGS
    try:
        place = (values.server, values.model_name, values.version)
        with Client(*place, values.timeout, _credentials(values)) as client:
            _COMMANDS[command](client, values)
    except ServerError as error:
        # Behind it TensorFlow says which of its nodes it was.
        message, _, _ = str(error).partition("[[{{")
        raise ValueError(" ".join(message.split())) from error


def _generate(client: Client, values: flags.FlagValues) -> None:
    prompts = _given(values, "prompt")
    _print_generations(client.generate(prompts, **_options(values)))


def _chat(client: Client, values: flags.FlagValues) -> None:
    turns = [{"role": "system", "content": values.system}] if values.system is not None else []
    (message,) = _given(values, "message")
    turns.append({"role": "user", "content": message})
    _print_generations(client.chat(turns, **_options(values)))


def _ask(command: str, client: Client, values: flags.FlagValues) -> None:
    """Asks a signature on texts, and prints a line for each answer."""
    inputs, line = _ON_TEXTS[command]
    given = {flag: _given(values, flag) for flag in inputs if flag != "pair" or values.pair}
    rows = max(map(len, given.values()))
    for flag, texts in given.items():
        if len(texts) not in (1, rows):
            raise cli.UsageError(
                f"{len(texts)} --{flag} for {rows} rows: give one for all or one for each"
            )
    texts = {inputs[flag]: some * (rows // len(some)) for flag, some in given.items()}
    found = getattr(client, command)(**texts, task=values.task)
    # What rows differ in: the first input, and what else is given for each.
    shown = [texts[inputs[flag]] for i, flag in enumerate(given) if not i or len(given[flag]) > 1]
    for answer, *asked in zip(found, *shown, strict=True):
        print(line(answer, *asked))


def _with_text(told):
    """What a function tells of an answer, and behind it the texts."""
    return lambda answer, *texts: "\t".join([told(answer), *texts])


def _labels(found) -> str:
    """Labels and scores; of several labels a text, those that it has not are in brackets."""
    said = [f"{label} {x:.3f}" for label, x in zip(found.labels, found.scores, strict=True)]
    count = len(said) if found.num_labels is None else found.num_labels
    return "  ".join(said[:count] + [f"({one})" for one in said[count:]])


def _listed(template: str):
    """A function that tells of a list of objects, by a template of their fields."""
    return lambda found: "  ".join(template.format(**vars(x)) for x in found) or "(none)"


# Signatures on texts: flags -> inputs, and what is printed of an answer and of these.
_ON_TEXTS = {
    "score": (
        {"completion": "completions", "prompt": "prompts"},
        _with_text(lambda found: f"{found.logprob:.4f}\t{found.num_tokens}"),
    ),
    "classify": ({"text": "texts", "pair": "pairs"}, _with_text(_labels)),
    "regress": ({"text": "texts", "pair": "pairs"}, _with_text("{:.4f}".format)),
    "embed": ({"text": "texts"}, lambda found, *_: " ".join(f"{x:.6g}" for x in found)),
    "rank": ({"document": "documents", "query": "queries"}, _with_text("{:.4f}".format)),
    "fill_mask": ({"text": "texts"}, _with_text(_listed("{token} {score:.3f}"))),
    "tag": (
        {"text": "texts"},
        _with_text(_listed("{label} {text} {start}-{end} {score:.3f}")),
    ),
    "relations": (
        {"text": "texts", "entities": "entities"},
        _with_text(_listed("{head_text} {label} {tail_text} {score:.3f}")),
    ),
    "answer": (
        {"question": "questions", "context": "contexts"},
        _with_text(lambda found: f"{found.text or '(no answer)'}\t{found.score:.3f}"),
    ),
}


def _status(client: Client, values: flags.FlagValues) -> None:
    for entry in client.status():
        print(f"version {entry.version}: {entry.state} {entry.error}".rstrip())


_COMMANDS = {
    "generate": _generate,
    "chat": _chat,
    **{name: functools.partial(_ask, name) for name in _ON_TEXTS},
    "status": _status,
}


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
    flags.DEFINE_string(
        "task", "",
        "Of a model of several tasks: what it calls the one that is asked, where that has a name "
        "of its own.",
    )  # fmt: skip
    flags.DEFINE_string("message", None, "chat: what the user says.")
    flags.DEFINE_string("system", None, "chat: instructions to the model, before the message.")
    for name, text in TEXTS.items():
        flags.DEFINE_multi_string(name, None, f"{text} Repeatable.")
    for name, (define, text) in OPTIONS.items():
        define(name, None, f"generate, chat: {text} (default: the model's)")


if __name__ == "__main__":
    define_flags()
    cli.run(main, tuple(_COMMANDS))
