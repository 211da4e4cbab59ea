"""Does a written SavedModel answer as the Python model does?

The SavedModel is loaded as the server loads it, into a plain `tf.compat.v1.Session`.
"""

import contextlib
import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from export import signatures
from gpt_keras import CausalLM

TEXTS = (
    "The capital of France is",
    "I am so happy about this!",
    "def fibonacci(n):\n    if n < 2:\n",
    "今天天气很好。",
)
MAX_NEW_TOKENS = 16
SCORE_TOLERANCE = 1e-4
LOGIT_TOLERANCE = 1e-3  # two best tokens this close may change places by rounding


class Loaded:
    """A SavedModel in a session. Get one from `load`."""

    def __init__(self, session, signature_defs):
        self._session, self.signature_defs = session, signature_defs

    def run(self, signature: str, inputs: Mapping[str, list], outputs=None, timeout_ms=0) -> dict:
        """Answers one request as the server does: what is left out of `inputs` has its default.

        Args:
          signature: its name.
          inputs: name -> values.
          outputs: names of those wanted; None for all.
          timeout_ms: after which it is stopped; 0 for never.

        Raises:
          tf.errors.OpError: the request is bad, or its run failed.
        """
        signature_def = self.signature_defs[signature]
        defaults = {k: tf.make_ndarray(v) for k, v in signature_def.defaults.items()}
        feed = {
            signature_def.inputs[name].name: value for name, value in {**defaults, **inputs}.items()
        }
        names = outputs or signature_def.outputs
        limit = tf.compat.v1.RunOptions(timeout_in_ms=timeout_ms) if timeout_ms else None
        fetches = {k: signature_def.outputs[k].name for k in names}
        return self._session.run(fetches, feed, options=limit)


@contextlib.contextmanager
def load(directory):
    """A context that gives the SavedModel of a directory as `Loaded`."""
    config = tf.compat.v1.ConfigProto()
    # A second round of optimisation takes seconds a signature, and pays on a server alone.
    config.graph_options.rewrite_options.meta_optimizer_iterations = RewriterConfig.ONE
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with contextlib.closing(session):
        # Not a default for what the caller does: there, TensorFlow is to stay eager.
        with session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        yield Loaded(session, meta_graph.signature_def)


def verify(directory, model, entries, template=None, context=None) -> None:
    """Loads a SavedModel and compares its answers to a few texts with the model's.

    Args:
      directory: of the SavedModel.
      model: the task it was exported from.
      entries: name -> `signatures.Signature`; their examples are run too, since a server whose
        warm-up fails does not load the version.
      template: the `chat.CompiledTemplate` of the signature `chat`, or None without one.
      context: tokens of the longest text that it takes; None for the model's own.

    Raises:
      ValueError: an answer differs, or a request fails.
    """
    try:
        with load(directory) as loaded:
            for name, entry in entries.items():
                loaded.run(name, entry.example)
            if not isinstance(model, CausalLM):
                _compare_text_task(loaded, model)
                return
            context = context or model.config.max_position_embeddings
            _compare_answers(loaded, "generate", "prompts", TEXTS, model, TEXTS, context)
            if template is not None:
                _compare_chat(loaded, model, template, context)
    except tf.errors.OpError as error:
        raise ValueError(f"the written model fails: {error.message}") from error


def _compare_text_task(loaded, model):
    """Each signature's answer to its example and to each of TEXTS, beside the Python function's."""
    for name, served in model.signatures().items():
        requests = [{key: [value] for key, value in served.example.items()}]
        for begin in range(len(TEXTS)):  # several inputs get different texts
            given = {key: [TEXTS[(begin + i) % len(TEXTS)]] for i, key in enumerate(served.inputs)}
            requests.append(given | {key: [served.example[key]] for key in served.fixed})
        for given in requests:
            expected = served.function(**{key: tf.constant(value) for key, value in given.items()})
            got = loaded.run(name, given)
            for key, value in expected.items():
                if not _alike(value.numpy(), got[key]):
                    raise ValueError(
                        "the written model answers otherwise than the Python model: "
                        f"{name}({given}) gives {key} {got[key].tolist()} instead of "
                        f"{value.numpy().tolist()}"
                    )


def _alike(expected, got):
    """Whether arrays say the same, but for rounding; a NaN is a difference too."""
    if expected.shape != got.shape:
        return False
    if not np.issubdtype(expected.dtype, np.floating):
        return bool(np.all(expected == got))
    return bool(np.all(np.abs(expected - got) <= SCORE_TOLERANCE))


def _compare_chat(loaded, model, template, context):
    messages = [json.dumps(signatures.conversation(template, text)) for text in TEXTS]
    prompts = [prompt.decode() for prompt in template(tf.constant(messages)).numpy()]
    _compare_answers(loaded, "chat", "messages", messages, model, prompts, context)


def _compare_answers(loaded, signature, name, inputs, model, prompts, context):
    adds = signature != "chat"  # whose template writes special tokens itself
    tokens = (model.tokenizer.encode if adds else model.tokenizer.tokenize)(prompts)
    lengths = tokens.row_lengths().numpy()
    fit = np.flatnonzero(lengths < context)
    if not fit.size:
        return
    inputs, prompts = [inputs[i] for i in fit], [prompts[i] for i in fit]
    tokens, lengths = tf.gather(tokens, fit), lengths[fit]
    limits = np.minimum(MAX_NEW_TOKENS, context - lengths).tolist()
    options = {"max_new_tokens": limits, "temperature": [0.0]}
    expected = model.generate(prompts, adds, max_new_tokens=limits, temperature=0.0)
    answers = loaded.run(signature, {name: inputs, **options})["text"]
    differs = [i for i in range(len(prompts)) if answers[i].decode() != expected[i]]
    if not differs:
        return
    batch = {"token_ids": tokens.to_tensor().numpy(), "lengths": lengths}
    said = loaded.run("generate_tokens", {**batch, **options})
    for i in differs:
        answer = said["tokens"][i, : said["lengths"][i]]
        if not is_greedy(model, tokens[i].numpy(), answer, limits[i]):
            raise ValueError(
                "the written model answers otherwise than the Python model: "
                f"{signature}({prompts[i]!r}) gives {answers[i].decode()!r} instead of "
                f"{expected[i]!r}"
            )


def is_greedy(model, prompt, answer, max_new_tokens) -> bool:
    """Whether each token of an answer, and its end, is the model's best or as good as that.

    Two implementations of a model may round differently, and part ways where its two best logits
    are all but equal.

    Args:
      model: a CausalLM.
      prompt, answer: lists of token ids.
      max_new_tokens: at which the answer was to end at the latest.
    """
    sequence = np.concatenate([prompt, answer]).astype("int32")
    logits = model(sequence[None])[0].numpy()[len(prompt) - 1 :]  # (answer + 1, V)
    gaps = logits.max(axis=1, keepdims=True) - logits
    followed = all(gaps[i, token] <= LOGIT_TOLERANCE for i, token in enumerate(answer))
    full = len(answer) == max_new_tokens or len(sequence) == model.config.max_position_embeddings
    stops = model.config.eos_token_ids
    return followed and (full or bool((gaps[-1, list(stops)] <= LOGIT_TOLERANCE).any()))
