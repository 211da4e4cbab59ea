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
from export.client.results import (
    Answer,
    Classification,
    Filling,
    Generation,
    Relation,
    Score,
    Span,
    VersionStatus,
    decoded,
    of_tokens,
    rows_of,
)  # fmt: skip

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
        task: str = "",
        timeout: float | None = None,
    ) -> list[Score]:
        """How likely completions are after prompts.

        Args:
          prompts, completions: as many of these as of those; a single string counts as one, here
            and below. Where words begin with a blank, so must the completion.
          task: here and below, what a model of several tasks calls the one that is asked, where it
            has a name of its own: the signature is `classify_NAME` and the like then.
          timeout: seconds; None for the client's.

        Returns:
          One Score a row.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        answer = self._asked("score", task, timeout, prompts=prompts, completions=completions)
        return list(map(Score, answer["logprob"], answer["num_tokens"]))

    def classify(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        task: str = "",
        timeout: float | None = None,
    ) -> list[Classification]:
        """Labels of texts.

        Args:
          texts: one or more.
          pairs: the second text of each, for a model of pairs.
          task: as in `score`.
          timeout: seconds; None for the client's.

        Returns:
          One Classification a text.

        Raises:
          ServerError, ValueError: as in `generate`.
        """
        answer = self._asked("classify", task, timeout, texts=texts, pairs=pairs)
        labels, scores = (map(tuple, answer[name]) for name in ("labels", "scores"))
        num_labels = answer.get("num_labels", [None] * len(answer["labels"]))
        return list(map(Classification, labels, scores, num_labels))

    def regress(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        task: str = "",
        timeout: float | None = None,
    ) -> list[float]:
        """A number of each text; arguments as of `classify`."""
        return self._asked("regress", task, timeout, texts=texts, pairs=pairs)["value"]

    def embed(
        self, texts: Sequence[str], *, task: str = "", timeout: float | None = None
    ) -> np.ndarray:
        """Embeddings of texts: (B, D) float32."""
        return np.array(self._asked("embed", task, timeout, texts=texts)["embedding"], np.float32)

    def rank(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        task: str = "",
        timeout: float | None = None,
    ) -> list[float]:
        """How well each document answers the query beside it: the cosine of their embeddings."""
        return self._asked("rank", task, timeout, queries=queries, documents=documents)["score"]

    def fill_mask(
        self, texts: Sequence[str], *, task: str = "", timeout: float | None = None
    ) -> list[list[Filling]]:
        """What may stand at the first mask token of each text, the likeliest first.

        A text without one has an empty list.
        """
        answer = self._asked("fill_mask", task, timeout, texts=texts)
        there = zip(answer["num_masks"], answer["tokens"], strict=True)
        sizes = [len(tokens) if n else 0 for n, tokens in there]
        return rows_of(Filling, answer, sizes)

    def tag(
        self, texts: Sequence[str], *, task: str = "", timeout: float | None = None
    ) -> list[list[Span]]:
        """Names and the like that stand in texts."""
        answer = self._asked("tag", task, timeout, texts=texts)
        return rows_of(Span, answer, answer["num_spans"])

    def relations(
        self,
        texts: Sequence[str],
        entities: Sequence,
        *,
        task: str = "",
        timeout: float | None = None,
    ) -> list[list[Relation]]:
        """What entities of texts have to do with each other.

        Args:
          entities: of each text a list of `Span`s, as `tag` gives them, or of pairs of start and
            end in characters; or these pairs as JSON.
        """
        places = [entities] if isinstance(entities, str) else map(_places, entities)
        answer = self._asked("relations", task, timeout, texts=texts, entities=places)
        return rows_of(Relation, answer, answer["num_relations"])

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        task: str = "",
        timeout: float | None = None,
    ) -> list[Answer]:
        """What of contexts answers questions, one context each."""
        found = self._asked("answer", task, timeout, questions=questions, contexts=contexts)
        return list(map(Answer, *(found[name] for name in ("text", "start", "end", "score"))))

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
            request.inputs[name].CopyFrom(tensors.of_value(name, value, dtypes[name]))
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

    def _asked(self, signature, task, timeout, **texts) -> dict[str, list]:
        """The answer to texts by the names of inputs, None for one that is left out."""
        inputs = {
            name: [value] if isinstance(value, str) else list(value)
            for name, value in texts.items()
            if value is not None
        }
        name = f"{signature}_{task}" if task else signature
        return decoded(self.predict(inputs, name, timeout=timeout))

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
            columns |= of_tokens(**{k: answer[k] for k in ("num_tokens", *_OF_TOKENS)})
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
            several = any(key.startswith(f"{name}_") for key in known)
            raise ValueError(
                f"the model has no signature {name!r}; it has {', '.join(known)}"
                + "; name one of its tasks: --task (task=)" * several
            )
        return self._signatures[name]

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _call(self, method, request, deadline: float):
        try:
            return method(request, timeout=deadline - time.monotonic())
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details()) from None


def _places(entities) -> str:
    """Entities of a text as JSON."""
    if isinstance(entities, str):
        return entities
    return json.dumps([[x.start, x.end] if isinstance(x, Span) else list(x) for x in entities])
