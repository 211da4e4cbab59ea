"""Calls to a model on a server, ours or a stock TensorFlow Serving, over gRPC.

    with Client("localhost:8500", "NAME") as client:
        print(client.generate(["The capital of France is"], max_new_tokens=16)[0].text)

On the command line: `python -m export.client --help`. TensorFlow is not imported, so a call takes
no longer than it must.
"""

import json
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from export import protocol, tensors
from export.client.results import Answer, Classification, Generation, Score, VersionStatus

TIMEOUT = 60.0  # seconds

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

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        timeout: float | None = None,
    ) -> list[Score]:
        """How likely completions are after prompts.

        Args:
          prompts, completions: as many of these as of those; a single string counts as one. Where
            words begin with a blank, so must the completion.
          timeout: seconds; None for the client's.

        Returns:
          One Score a row.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        texts = {"prompts": prompts, "completions": completions}
        texts = {k: [v] if isinstance(v, str) else list(v) for k, v in texts.items()}
        answer = self.predict(texts, "score", timeout=timeout)
        return list(map(Score, answer["logprob"], answer["num_tokens"]))

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[Classification]:
        """Labels of texts.

        Args:
          texts: one or more; a single string counts as one.
          pairs: the second text of each, for a model of pairs.
          timeout: seconds; None for the client's.

        Returns:
          One Classification a text.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        answer = self.predict(_texts(texts, pairs), "classify", timeout=timeout)
        return [
            Classification(tuple(label.decode() for label in labels), tuple(scores))
            for labels, scores in zip(answer["labels"], answer["scores"], strict=True)
        ]

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        timeout: float | None = None,
    ) -> list[Answer]:
        """What of contexts answers questions, one context each; otherwise as `score`."""
        texts = {"questions": questions, "contexts": contexts}
        texts = {k: [v] if isinstance(v, str) else list(v) for k, v in texts.items()}
        found = self.predict(texts, "answer", timeout=timeout)
        texts = [text.decode() for text in found["text"]]
        return list(map(Answer, texts, found["start"], found["end"], found["score"]))

    def embed(self, texts: Sequence[str], *, timeout: float | None = None) -> np.ndarray:
        """Embeddings of texts: (B, D) float32; arguments and errors as of `classify`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        answer = self.predict({"texts": texts}, "embed", timeout=timeout)
        return np.array(answer["embedding"], np.float32)

    def regress(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> list[float]:
        """A number of each text; arguments and errors as of `classify`."""
        return self.predict(_texts(texts, pairs), "regress", timeout=timeout)["value"]

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


def _texts(texts, pairs) -> dict[str, list[str]]:
    """Inputs of a signature on texts."""
    given = {"texts": texts} if pairs is None else {"texts": texts, "pairs": pairs}
    return {name: [x] if isinstance(x, str) else list(x) for name, x in given.items()}


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
