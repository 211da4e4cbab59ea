"""A task -> the named functions that a server offers.

Every input is a vector with one entry a row, `[batch]`, since server-side batching joins requests
on the first dimension. Options have defaults of shape [1]: a request may leave them out, give one
value for all rows, or one value a row.
"""

import dataclasses
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Mapping

import tensorflow as tf

from export import checks, options
from gpt_keras import CausalLM, generation, preprocessing, scoring
from gpt_keras.options import generation_options
from gpt_keras.tokenizers import utf8

PREDICT = "tensorflow/serving/predict"
# Calls on `tf.Example`s: name of the method, and what our outputs are called there.
CALLS = {
    "classify": ("tensorflow/serving/classify", {"labels": "classes", "scores": "scores"}),
    "regress": ("tensorflow/serving/regress", {"value": "outputs"}),
}

TEXTS = tf.TensorSpec([None], tf.string)
VECTOR = tf.TensorSpec([None], tf.int32)
TOKENS = tf.TensorSpec([None, None], tf.int32)


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry of a SavedModel.

    Attributes:
      function: a `tf.function` with an input signature, from tensors to a dict of tensors.
      example: name of input -> values, a small request; the other inputs have defaults.
      method_name: which of TensorFlow Serving's calls it answers.
    """

    function: Callable
    example: Mapping[str, list]
    method_name: str = PREDICT


def of(model, template=None, batcher=None, **options) -> dict[str, Signature]:
    """The signatures of a model.

    Args:
      model: a task of `gpt_keras`, with a tokenizer.
      template, batcher, **options: of a CausalLM, see `causal_lm`; another task has none.

    Raises:
      ValueError: no tokenizer, an option that is not the task's or out of range.
    """
    model.require_tokenizer()
    if isinstance(model, CausalLM):
        return causal_lm(model, template, batcher, **options)
    if options:
        raise ValueError(
            f"--{next(iter(options))} is of no use to a {type(model).__name__}: leave it out"
        )
    return of_texts(model)


def of_texts(model) -> dict[str, Signature]:
    """Signatures of a `gpt_keras.TextTask`: what it says is served, the first as `serving_default`.

    What may be asked by Classify or Regress too has NAME_examples for that, on `tf.Example`s with
    a feature for each value of a record.
    """
    made = {}
    for name, served in model.signatures().items():
        inputs = dict.fromkeys(served.inputs, TEXTS)
        function = _of_texts(served, inputs)
        example = {key: [value] for key, value in served.example.items()}
        made.setdefault("serving_default", Signature(_entry(function, **inputs), example))
        made[name] = Signature(_entry(function, **inputs), example)
        if served.call:
            made[f"{name}_examples"] = _of_examples(served, function)
    return made


def _of_texts(served, inputs):
    """The function of a `Served` that refuses what is not UTF-8, traced once for all callers."""

    @_shared(*inputs.values())
    def answer(*texts):
        given = dict(zip(inputs, texts, strict=True))
        rows = tf.size(texts[0])
        problems = [checks.not_utf8(key, value) for key, value in given.items()]
        problems.append(checks.wrong_length(given, rows, shared=False))
        return served.function(**checks.guarded(problems, given))

    return lambda **texts: answer(*(texts[key] for key in inputs))


def _of_examples(served, function) -> Signature:
    """The signature by which TensorFlow Serving's Classify or Regress asks a `Served`."""
    method, outputs = CALLS[served.call]
    features = dict.fromkeys(served.inputs.values(), tf.io.FixedLenFeature([], tf.string))

    def from_examples(inputs):
        found = tf.io.parse_example(inputs, features)
        answer = function(**{key: found[feature] for key, feature in served.inputs.items()})
        return {of_call: answer[ours] for ours, of_call in outputs.items()}

    record = tf.train.Example()
    for key, value in served.example.items():
        feature = record.features.feature[served.inputs[key]]
        feature.bytes_list.value.append(value.encode())
    return Signature(
        _entry(from_examples, inputs=TEXTS), {"inputs": [record.SerializeToString()]}, method
    )


def causal_lm(model, template=None, batcher=None, **defaults) -> dict[str, Signature]:
    """Signatures of a CausalLM.

    `serving_default`: `prompts` -> `text`, `num_tokens`, `finish_reason`.
    `generate`: `prompts` and options -> `text`, `text_bytes`, `finish_reason`, `prompt_tokens`,
      `num_tokens`, `logprob`; and of each token, (batch, N) and (batch, N, n): `token_logprobs`,
      `top_logprobs`, `top_tokens`, see `generated.Generated`.
    `chat`: `messages` (JSON) and options -> the same.
    `generate_tokens`: `token_ids` (batch, T), `lengths` and options -> `tokens`, `lengths`, and the
      same of each token.
    `score`: `prompts`, `completions` -> `logprob`, `num_tokens`, see `CausalLM.score`.
    `stats`, with a batcher: nothing -> its figures.

    Args:
      model: the task.
      template: its `chat.CompiledTemplate`, or None to leave `chat` out.
      batcher: a `batching.Batcher` that all requests share, or None for a loop of each its own.
      **defaults: of options, see `gpt_keras.options.generation_options`.
    """
    context = batcher.capacity.context if batcher else model.config.max_position_embeddings
    accepted = generation_options(context, **defaults)
    optional = options.inputs(accepted)
    if model.tokenizer:
        optional["stop"] = tf.constant(["[]"])

    # Every signature calls this one function: its body, by far the largest, is in the model once.
    specs = [tf.TensorSpec([None], option.dtype) for option in accepted]

    @_shared(TOKENS, VECTOR, tf.TensorSpec([None, None], tf.string), *specs)
    def continue_tokens(token_ids, lengths, strings, *values):
        chosen, stop = generation.GenerationOptions(*values), model.stop_at(strings)
        if batcher:
            return batcher.generate(token_ids, lengths, chosen, stop)
        return generation.generate_tokens(model, token_ids, lengths, chosen, stop)

    # Reading JSON takes many ops, too.
    @_shared(TEXTS, tf.TensorSpec([], tf.int32))
    def read_stop(texts, rows):
        return options.read_stop(texts, rows)

    def read(values, rows):
        strings = read_stop(values["stop"], rows) if "stop" in values else no_strings(rows)
        return options.read(accepted, values, rows), strings

    def no_strings(rows):
        return tf.fill([rows, 0], "")

    def answer(name, tokens, chosen, strings):
        batch = _admitted(model, context, name, tokens)
        generated = continue_tokens(*batch, strings, *chosen)
        text_bytes = model.decode_answers(generated, model.stop_at(strings))
        return {
            "text": utf8.replace_invalid(text_bytes),
            "text_bytes": text_bytes,
            "finish_reason": tf.where(generated.stopped, "stop", "length"),
            "prompt_tokens": batch.lengths,
            "num_tokens": generated.lengths,
            "logprob": generated.logprob,
            **of_tokens(generated),
        }

    def of_tokens(generated):
        names = ("token_logprobs", "top_logprobs", "top_tokens")
        return {name: getattr(generated, name) for name in names}

    def encoded(prompts):
        prompts = checks.guarded([checks.not_utf8("prompts", prompts)], prompts)
        return model.tokenizer.encode(prompts)

    def generate(prompts, **values):
        return answer("prompts", encoded(prompts), *read(values, tf.size(prompts)))

    def serving_default(prompts):
        rows = tf.size(prompts)
        chosen = options.unasked(accepted, rows)
        full = answer("prompts", encoded(prompts), chosen, no_strings(rows))
        return {name: full[name] for name in ("text", "num_tokens", "finish_reason")}

    def chat(messages, **values):
        tokens = template.encode(messages, model.tokenizer)
        return answer("messages", tokens, *read(values, tf.size(messages)))

    def generate_tokens(token_ids, lengths, **values):
        rows = tf.shape(token_ids)[0]
        chosen, strings = read(values, rows)
        batch = _given(model, context, token_ids, lengths)
        generated = continue_tokens(*batch, strings, *chosen)
        of_rows = {"tokens": generated.tokens, "lengths": generated.lengths}
        return of_rows | of_tokens(generated)

    def score(prompts, completions):
        given = (prompts, completions)
        problems = [
            checks.not_utf8("prompts", prompts),
            checks.not_utf8("completions", completions),
            checks.wrong_length({"completions": completions}, tf.size(prompts), shared=False),
        ]
        prompts, completions = checks.guarded(problems, given)
        said = model.tokenizer.tokenize(completions)
        batch, starts = _scorable(model, context, model.tokenizer.encode(prompts), said)
        decode = batcher.decode if batcher else None
        logprob = scoring.logprobs(model, *batch, starts, decode)
        return {"logprob": logprob, "num_tokens": batch.lengths - starts}

    text, few = "The weather is", {"max_new_tokens": [4]}
    made = {
        "serving_default": Signature(_entry(serving_default, prompts=TEXTS), {"prompts": [text]}),
        "generate": Signature(
            _entry(generate, optional, prompts=TEXTS), {"prompts": [text], **few}
        ),
        "generate_tokens": Signature(
            _entry(generate_tokens, optional, token_ids=TOKENS, lengths=VECTOR),
            {"token_ids": [[0, 0]], "lengths": [2], **few},
        ),
    }
    if model.tokenizer:
        made["score"] = Signature(
            _entry(score, prompts=TEXTS, completions=TEXTS),
            {"prompts": [text], "completions": [" nice"]},
        )
    if batcher:
        made["stats"] = Signature(_entry(batcher.stats), {})
    if template is not None:
        messages = [json.dumps(conversation(template, text))]
        made["chat"] = Signature(
            _entry(chat, optional, messages=TEXTS), {"messages": messages, **few}
        )
    return made


def conversation(template, text) -> list[dict]:
    """The shortest list of messages, each with this text, that a `chat.CompiledTemplate` takes."""
    roles = sorted(template.form.roles, key=lambda role: role != "user")
    lists = itertools.chain.from_iterable(itertools.product(roles, repeat=n) for n in (1, 2, 3))
    return [{"role": role, "content": text} for role in next(filter(template.form.takes, lists))]


def _admitted(model, context, name, tokens) -> preprocessing.Batch:
    """Ragged tokens (B, None) as a batch; each row must leave room for an answer."""
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    problems = [_too_long(context, name, lengths), *_not_begun(model, name, lengths)]
    tokens = checks.guarded(problems, tokens)
    return preprocessing.pad(tokens, preprocessing.filler(model.config))


def _scorable(model, context, prompts, completions) -> tuple[preprocessing.Batch, tf.Tensor]:
    """Ragged tokens of prompts and completions (B, None), checked, as of `scoring.join`."""
    before, said = (tf.cast(x.row_lengths(), tf.int32) for x in (prompts, completions))
    lengths = tf.maximum(before, 1) + said
    what = [" and its prompt have ", checks.text(lengths), f" tokens and the context {context}"]
    problems = [
        checks.about_rows(said == 0, "completions", " is empty: there is nothing to score"),
        *_not_begun(model, "prompts", before),
        checks.about_rows(lengths > context, "completions", tf.strings.join(what)),
    ]
    return scoring.join(*checks.guarded(problems, (prompts, completions)), model.config)


def _not_begun(model, name, lengths) -> list:
    """Messages about empty prompts, if no token of the model stands for one."""
    if preprocessing.can_be_empty(model.config):
        return []
    what = " is empty, and no token of this model begins a text"
    return [checks.about_rows(lengths == 0, name, what)]


def _given(model, context, token_ids, lengths) -> preprocessing.Batch:
    """The tokens of a request, checked, with 0 in place of whatever its padding was."""
    rows, longest = tf.unstack(tf.shape(token_ids))
    problems = [checks.wrong_length({"lengths": lengths}, rows, shared=False)]
    token_ids, lengths = checks.guarded(problems, (token_ids, lengths))
    token_ids = tf.where(tf.sequence_mask(lengths, longest), token_ids, 0)
    smallest, largest = tf.reduce_min(token_ids, axis=1), tf.reduce_max(token_ids, axis=1)
    V = model.config.vocab_size
    problems = [
        checks.bad_rows(lengths >= 1, "lengths", lengths, "at least 1"),
        checks.bad_rows(lengths <= longest, "lengths", lengths, "at most the tokens given"),
        checks.bad_rows(smallest >= 0, "token_ids", smallest, "at least 0"),
        checks.bad_rows(largest < V, "token_ids", largest, f"below the vocabulary size {V}"),
        _too_long(context, "token_ids", lengths),
    ]
    token_ids, lengths = checks.guarded(problems, (token_ids, lengths))
    return preprocessing.Batch(preprocessing.at_least_one_column(token_ids, 0), lengths)


def _too_long(context, name, lengths):
    room = f" tokens and the context {context}: no room for an answer"
    what = tf.strings.join([" has ", checks.text(lengths), room])
    return checks.about_rows(lengths >= context, name, what)


def _shared(*specs):
    """Decorator: a `tf.function` of these inputs, traced once and saved once for all callers."""
    return functools.partial(tf.function, input_signature=specs, autograph=False)


def _entry(body, optional=None, **inputs):
    """`body` as the function of a signature.

    Args:
      body: takes its inputs by name and returns a dict of tensors.
      optional: name -> (1,) tensor, inputs that a request may leave out.
      **inputs: name -> TensorSpec, inputs that a request must have.
    """
    optional = optional or {}
    specs = list(inputs.values())
    specs += [tf.TensorSpec([None], value.dtype) for value in optional.values()]

    def entry(*args, **kwargs):
        given = dict(zip(names, args, strict=False)) | kwargs
        return body(**checks.guarded([checks.wrong_rank(given)], given)) if given else body()

    names = (*inputs, *optional)
    parameter = functools.partial(inspect.Parameter, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # A default in the Python signature is what `tf.saved_model.save` makes an input's default from.
    entry.__signature__ = inspect.Signature(
        [parameter(name) for name in inputs]
        + [parameter(name, default=value) for name, value in optional.items()]
    )
    return tf.function(entry, input_signature=specs, autograph=False)
