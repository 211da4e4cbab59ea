"""Asks a server over gRPC: ours, or a stock TensorFlow Serving.

    python -m export.client generate --server=localhost:8500 --model_name=NAME --prompt="..."
    python -m export.client chat     --server=localhost:8500 --model_name=NAME --message="..."
    python -m export.client classify --server=localhost:8500 --model_name=NAME --text="..."
    python -m export.client status   --server=localhost:8500 --model_name=NAME

In Python:

    with Client("localhost:8500", "NAME") as client:
        print(client.generate(["The capital of France is"], max_new_tokens=16)[0].text)

Exit status 0: answered. 1: the server said no, or was not there. 2: misused. TensorFlow is not
imported, so a call takes no longer than it must.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import numpy as np
from absl import flags

from export import cli, protocol, tensors

TIMEOUT = 60.0  # seconds

# Options of a generation that the command line can send, with the flag that reads each.
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

# Outputs of `generate` and `chat` that `Generation` has under the same names, and those of tokens.
_OF_ROWS = ("text", "text_bytes", "finish_reason", "prompt_tokens", "num_tokens", "logprob")
_OF_TOKENS = ("token_logprobs", "top_logprobs", "top_tokens")  # outputs of (batch, tokens, ...)


class ServerError(Exception):
    """The server refused or failed, or could not be reached in time.

    Attributes:
      code: a `grpc.StatusCode`.
      message: what it said.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code, self.message = code, message


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Attributes:
      text: valid UTF-8.
      text_bytes: the same as the tokens have it; the end may be half a character.
      finish_reason: "stop" or "length".
      prompt_tokens, num_tokens: read and written.
      logprob: of all that was written, natural logarithm.
      token_logprobs: of each token; empty from a model that does not tell.
      top_logprobs: for each token, ids of the likeliest tokens -> log-probability; empty unless
        asked for by the option `logprobs`.
    """

    text: str
    text_bytes: bytes
    finish_reason: str
    prompt_tokens: int
    num_tokens: int
    logprob: float
    token_logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[dict[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Classification:
    """Labels of a text with their probabilities, best first."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def score(self) -> float:
        return self.scores[0]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version: START, LOADING, AVAILABLE, UNLOADING or END; and what went wrong."""

    version: int
    state: str
    error: str


class Client:
    """Calls to one model. Thread-safe; also a context that closes the connection.

    Args:
      server: host:port of its gRPC.
      model_name: as the server calls it.
      version: number; None for the newest.
      timeout: seconds that a call may take, unless it says otherwise; the server stops at them.
      credentials: for a server with TLS, such as `grpc.ssl_channel_credentials` makes.
    """

    def __init__(
        self,
        server: str,
        model_name: str,
        version: int | None = None,
        timeout: float = TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = (
            grpc.secure_channel(server, credentials, unlimited)
            if credentials
            else grpc.insecure_channel(server, unlimited)
        )
        self._predictions = protocol.PredictionServiceStub(self._channel)
        self._models = protocol.ModelServiceStub(self._channel)
        self._spec = protocol.ModelSpec(name=model_name)
        if version is not None:
            self._spec.version.value = version
        self._timeout = timeout
        self._signatures: dict[str, dict[str, int]] = {}  # name -> input -> DataType

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def generate(
        self, prompts: Sequence[str], *, timeout: float | None = None, **options
    ) -> list[Generation]:
        """Texts that follow prompts.

        Args:
          prompts: one or more; a single string counts as one.
          timeout: seconds; None for the client's.
          **options: of the signature `generate`, such as max_new_tokens, temperature, top_k, top_p,
            seed: one value for all prompts or a list with one each. `stop`: a list of strings for
            all prompts, or a list of such lists with one each.

        Returns:
          One Generation a prompt.

        Raises:
          ServerError: the server said no.
          ValueError: the model has no such signature or option, or a value that does not fit.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        return self._generations("generate", {"prompts": prompts}, options, timeout)

    def chat(
        self, messages: Sequence, *, timeout: float | None = None, **options
    ) -> list[Generation]:
        """The assistant's next turn.

        Args:
          messages: a conversation, as OpenAI has it: `{"role": "user", "content": "..."}` and so
            on; or a list of conversations.
          timeout, **options: as in `generate`.

        Returns:
          One Generation a conversation.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        many = bool(messages) and not isinstance(messages[0], Mapping)
        conversations = messages if many else [messages]
        texts = [json.dumps(turns, ensure_ascii=False) for turns in conversations]
        return self._generations("chat", {"messages": texts}, options, timeout)

    def classify(
        self, texts: Sequence[str], *, timeout: float | None = None
    ) -> list[Classification]:
        """Labels of texts.

        Args:
          texts: one or more; a single string counts as one.
          timeout: seconds; None for the client's.

        Returns:
          One Classification a text.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        answer = self.predict({"texts": texts}, "classify", timeout=timeout)
        return [
            Classification(tuple(label.decode() for label in labels), tuple(scores))
            for labels, scores in zip(answer["labels"], answer["scores"], strict=True)
        ]

    def predict(
        self,
        inputs: Mapping[str, object],
        signature: str = protocol.DEFAULT_SIGNATURE,
        outputs: Sequence[str] = (),
        *,
        timeout: float | None = None,
    ) -> dict[str, object]:
        """A call of any signature.

        Args:
          inputs: name -> number, string, nested lists of them, or array.
          signature: its name.
          outputs: names of those wanted; all if there are none.
          timeout: seconds; None for the client's.

        Returns:
          name of output -> nested lists of Python values; strings are bytes.

        Raises:
          ServerError: the server said no.
          ValueError: the model has no such signature or input, or a value that does not fit.
        """
        deadline = self._deadline(timeout)
        request = protocol.PredictRequest(model_spec=self._spec, output_filter=outputs)
        request.model_spec.signature_name = signature
        dtypes = self._signature(signature, deadline)
        for name, value in inputs.items():
            if name not in dtypes:
                raise ValueError(
                    f"{name}: the model's signature {signature!r} has no such input; it has "
                    + ", ".join(sorted(dtypes))
                )
            request.inputs[name].CopyFrom(_tensor(name, value, dtypes[name]))
        response = self._call(self._predictions.Predict, request, deadline)
        return {name: tensors.to_array(proto).tolist() for name, proto in response.outputs.items()}

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """The states of the model's versions, newest first.

        Raises:
          ServerError: the server has no such model or version.
        """
        request = protocol.GetModelStatusRequest(model_spec=self._spec)
        response = self._call(self._models.GetModelStatus, request, self._deadline(timeout))
        names = protocol.ModelVersionStatus.State
        return [
            VersionStatus(entry.version, names.Name(entry.state), entry.status.error_message)
            for entry in response.model_version_status
        ]

    def _generations(self, signature, inputs, options, timeout) -> list[Generation]:
        values = {name: np.atleast_1d(value) for name, value in options.items() if name != "stop"}
        if "stop" in options:
            stop = list(options["stop"])
            lists = stop if stop and not isinstance(stop[0], str) else [stop]
            values["stop"] = [json.dumps(list(each), ensure_ascii=False) for each in lists]
        # All outputs: to a server, another choice of them is another program, seconds to prepare.
        answer = self.predict(inputs | values, signature, timeout=timeout)
        for name in ("text", "finish_reason"):
            answer[name] = [text.decode() for text in answer[name]]
        columns = {name: answer[name] for name in _OF_ROWS}
        if "token_logprobs" in answer:
            columns |= _of_tokens(**{k: answer[k] for k in ("num_tokens", *_OF_TOKENS)})
        rows = zip(*columns.values(), strict=True)
        return [Generation(**dict(zip(columns, row, strict=True))) for row in rows]

    def _signature(self, name: str, deadline: float) -> dict[str, int]:
        """DataTypes of a signature's inputs by name; the model is asked once."""
        if name not in self._signatures:
            request = protocol.GetModelMetadataRequest(
                model_spec=self._spec, metadata_field=["signature_def"]
            )
            response = self._call(self._predictions.GetModelMetadata, request, deadline)
            found = protocol.SignatureDefMap()
            response.metadata["signature_def"].Unpack(found)
            # No messages: threads that share a client must not share those.
            self._signatures = {
                key: {alias: info.dtype for alias, info in entry.inputs.items()}
                for key, entry in found.signature_def.items()
            }
        if name not in self._signatures:
            known = sorted(key for key in self._signatures if not key.startswith("__"))
            raise ValueError(f"the model has no signature {name!r}; it has {', '.join(known)}")
        return self._signatures[name]

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _call(self, method, request, deadline: float):
        try:
            return method(request, timeout=deadline - time.monotonic())
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details()) from None


def _of_tokens(num_tokens, token_logprobs, top_logprobs, top_tokens) -> dict[str, list[tuple]]:
    """The fields of `Generation` on tokens, without the padding; lists with one entry a row."""
    logprobs = [tuple(row[:n]) for n, row in zip(num_tokens, token_logprobs, strict=True)]
    tops = [
        tuple(
            {token: value for token, value in zip(*pair, strict=True) if token >= 0}
            for pair in zip(ids[:n], values[:n], strict=True)
            if pair[0] and pair[0][0] >= 0
        )
        for n, ids, values in zip(num_tokens, top_tokens, top_logprobs, strict=True)
    ]
    return {"token_logprobs": logprobs, "top_logprobs": tops}


def _tensor(name: str, value, dtype: int) -> protocol.TensorProto:
    """A value of an input in the dtype that the model wants.

    Raises:
      ValueError: it does not fit.
    """
    target = tensors.numpy_dtype(dtype)
    if target == np.object_:
        array = np.array(value, object)
        flat = [_bytes(name, text) for text in array.reshape(-1)]
        array = np.array([*flat, None], object)[:-1].reshape(array.shape)
        return tensors.to_proto(array)
    array = np.asarray(value)
    if array.size and not np.can_cast(array.dtype, target, "same_kind"):
        raise ValueError(f"{name}={value!r}: expected {target.name}")
    cast = array.astype(target)
    if target.kind in "iu" and not np.array_equal(cast, array):
        raise ValueError(f"{name}={value!r}: out of the range of {target.name}")
    return tensors.to_proto(cast)


def _bytes(name: str, text) -> bytes:
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    raise ValueError(f"{name}: expected strings in lists of one length, not {text!r}")


def main(command: str) -> None:
    values = flags.FLAGS
    try:
        with Client(
            values.server,
            values.model_name,
            values.version,
            values.timeout,
            _credentials(values),
        ) as client:
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
    for text, found in zip(texts, client.classify(texts), strict=True):
        scores = "  ".join(
            f"{label} {score:.3f}" for label, score in zip(found.labels, found.scores, strict=True)
        )
        print(f"{scores}\t{text}")


def _status(client: Client, values: flags.FlagValues) -> None:
    for entry in client.status():
        print(f"version {entry.version}: {entry.state} {entry.error}".rstrip())


_COMMANDS = {"generate": _generate, "chat": _chat, "classify": _classify, "status": _status}


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
    flags.DEFINE_multi_string("text", None, "classify: text to label. Repeatable.")
    for name, (define, text) in OPTIONS.items():
        define(name, None, f"generate, chat: {text} (default: the model's)")


if __name__ == "__main__":
    define_flags()
    cli.run(main, tuple(_COMMANDS))
