"""`tokenizer.model`, the format of SentencePiece, https://github.com/google/sentencepiece.

BPE that changes no text becomes a `SentencePieceBPE`, which is several times as fast; all else runs
on the op of TensorFlow Text, which stock servers link.
"""

import json
import os

import tensorflow as tf
import tensorflow_text as tf_text
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from gpt_keras.tokenizers import (
    normalizer,
    post_processor,
    ragged,
    tokenizer_config,
    tokenizer_json,
    utf8,
)
from gpt_keras.tokenizers.byte_fallback import BYTE_TOKENS
from gpt_keras.tokenizers.json_tokenizer import JsonTokenizer
from gpt_keras.tokenizers.metaspace import MARK
from gpt_keras.tokenizers.sentence_piece_bpe import SentencePieceBPE, decoder_from_json
from gpt_keras.tokenizers.words import Words

FILE = "tokenizer.model"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BPE, _UNIGRAM = 2, 1


class SentencePiece(SentencePieceBPE):
    """A SentencePiece model as it is, in the graph; see `Tokenizer`.

    Control tokens and the symbols of the user are cut out of a text first, as Hugging Face does it.

    Attributes:
      data: content of the `tokenizer.model`.
    """

    def __init__(self, data: bytes, config: dict | None = None, where: str = FILE):
        """
        Args:
          data: content of a `tokenizer.model`.
          config: fields of a `tokenizer_config.json`.
          where: begins the message of an error.

        Raises:
          ValueError: malformed, or neither BPE nor unigram.
        """
        self.data = data
        proto = parse(data, where)
        super().__init__(_spec(proto, config or {}, where), _named(proto, config or {}), where)

    def _make_parts(self, spec, where):
        self._use_decoder(decoder_from_json(spec.decoder, where))
        return _whole_texts, PieceEncoder(self.data)

    def save(self, directory):
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, FILE), "wb") as file:
            file.write(self.data)
        tokenizer_config.write({"tokenizer_class": "LlamaTokenizer", **self._config}, directory)


class PieceEncoder(tf.Module):
    """Words to token ids by the op of TensorFlow Text."""

    def __init__(self, data: bytes, name=None):
        """
        Args:
          data: content of a `tokenizer.model`.
        """
        super().__init__(name=name)
        self.data = data

    def __call__(self, words):
        """(W,) string -> (values (v,) int32, splits (W + 1,) int64)."""
        # Made inside the graph, which then owns the model: an eager one is gone whenever the cache
        # of eager kernels is cleared.
        ids = tf_text.SentencepieceTokenizer(self.data, out_type=tf.int32).tokenize(words)
        return ids.values, tf.cast(ids.row_splits, tf.int64)

    def spans(self, words, values, splits):
        """Where in the words each token stands, see `offsets.end_to_end`, as SentencePiece has it.

        Of the bytes that a character falls into the last one stands for it.
        """
        op = tf_text.SentencepieceTokenizer(self.data, out_type=tf.int32)
        _, starts, limits = op.tokenize_with_offsets(words)
        shifts = tf.cumsum(tf.cast(tf.strings.length(words), tf.int64), exclusive=True)
        shifts = tf.gather(shifts, ragged.row_ids(splits))
        return tf.cast(starts.values, tf.int64) + shifts, tf.cast(limits.values, tf.int64) + shifts


def read(path: str, config: dict) -> JsonTokenizer:
    """The tokenizer of a `tokenizer.model`.

    Args:
      path: of the file.
      config: fields of the `tokenizer_config.json` beside it.

    Raises:
      ValueError: missing, malformed, or neither BPE nor unigram; the message names the file.
    """
    return from_bytes(_content(path), config, path)


def pieces(path: str) -> list[str]:
    """The tokens of a `tokenizer.model`, in the order of their ids. Raises as `read`."""
    return [piece.piece for piece in parse(_content(path), path).pieces]


def _content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected a SentencePiece model") from error


def from_bytes(data: bytes, config: dict | None = None, where: str = FILE) -> JsonTokenizer:
    """As `SentencePiece`, or the faster `SentencePieceBPE` where that does the same."""
    config = config or {}
    proto = parse(data, where)
    text = _as_bpe(proto, config, where)
    if text is None:
        return SentencePiece(data, config, where)
    return SentencePieceBPE(text, _named(proto, config), where)


def parse(data: bytes, where: str):
    """The `ModelProto` of a `tokenizer.model`. Raises ValueError where there is none."""
    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(data)
    except DecodeError as error:
        raise ValueError(f"{where}: not a SentencePiece model; get the file anew") from error
    if not proto.pieces:
        raise ValueError(f"{where}: a SentencePiece model without pieces; get the file anew")
    kind = proto.trainer_spec.model_type
    if kind not in (_BPE, _UNIGRAM):
        name = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(kind)
        raise ValueError(f"{where}: model type {name}: unsupported; supported are BPE and UNIGRAM")
    return proto


def bpe_json(tokens, scores, kinds, added=(), dummy_prefix=True, post_processor=None) -> str:
    """The text of a `tokenizer.json` for BPE by scores, as Hugging Face's converter makes it.

    Args:
      tokens: pieces in the order of their ids.
      scores: of the pieces; the best one is merged first.
      kinds: of the pieces, numbers of SentencePiece.
      added: further added tokens, as a `tokenizer.json` has them.
      dummy_prefix: whether a blank is put before a text.
      post_processor: as a `tokenizer.json` has it.
    """
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores, strict=True):
        merges += [(score, *map(len, pair), pair) for pair in pairs(token, vocab)]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    unknown = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN]
    model = tokenizer_json.BPEModel(
        vocab,
        [merge[-1] for merge in merges],
        unk_token=unknown[0] if unknown else None,
        fuse_unk=True,
        byte_fallback=_BYTE in kinds,
    )
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": MARK}]
    if dummy_prefix:
        steps.insert(0, {"type": "Prepend", "prepend": MARK})
    text = tokenizer_json.write(
        model,
        [t for t, kind in zip(tokens, kinds, strict=True) if kind in (_UNKNOWN, _CONTROL)],
        [t for t, kind in zip(tokens, kinds, strict=True) if kind == _USER_DEFINED],
        None,
        {"type": "Sequence", "normalizers": steps},
        _decoder(dummy_prefix),
        post_processor,
    )
    if not added:
        return text
    fields = json.loads(text)
    given = {token["content"]: token for token in fields["added_tokens"]}
    given |= {token["content"]: token for token in added}
    fields["added_tokens"] = sorted(given.values(), key=lambda token: token["id"])
    return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"


def pairs(token: str, vocab) -> list[tuple[str, str]]:
    """The tokens of a vocabulary that join to one."""
    cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return [(a, b) for a, b in cuts if a in vocab and b in vocab]


def scores(model: tokenizer_json.BPEModel) -> list[float]:
    """Scores by which `bpe_json` makes a model's merges, in the order of its vocabulary.

    Raises:
      ValueError: there are none: the merges are of some other kind.
    """
    made = ["".join(pair) for pair in model.merges]
    rank = {token: -i for i, token in enumerate(dict.fromkeys(made))}
    runs = sum(a != b for a, b in zip(made, [*made[1:], None], strict=True))
    expected = {pair for token in model.vocab for pair in pairs(token, model.vocab)}
    if runs > len(rank) or set(model.merges) != expected:
        raise ValueError(
            "the merges are not those of SentencePiece, which joins all tokens that make another, "
            "by the scores of what they make"
        )
    return [float(rank.get(token, -len(rank))) for token in model.vocab]


def _as_bpe(proto, config, where):
    """`bpe_json` of a model that it describes; None for another."""
    steps, trained = proto.normalizer_spec, proto.trainer_spec
    if (
        trained.model_type != _BPE
        or trained.treat_whitespace_as_suffix
        or steps.precompiled_charsmap
        or steps.remove_extra_whitespaces
        or not steps.escape_whitespaces
        or any(piece.type == _UNUSED for piece in proto.pieces)
    ):
        return None
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    added = _added(config, where)
    around = _post_processor(proto, config, added)
    return bpe_json(*zip(*pieces, strict=True), added, steps.add_dummy_prefix, around)


def to_bytes(tokenizer: SentencePieceBPE) -> bytes:
    """A tokenizer as the content of a `tokenizer.model`; `from_bytes` is the inverse.

    Raises:
      ValueError: it does what no SentencePiece model says.
    """
    if isinstance(tokenizer, SentencePiece):
        return tokenizer.data
    spec = tokenizer.spec
    model, ids = spec.model, spec.ids
    ranks = {"".join(pair): i for i, pair in reversed([*enumerate(model.merges)])}
    kinds = {token.content: _CONTROL if token.special else _USER_DEFINED
             for token in spec.added_tokens}  # fmt: skip
    kinds |= dict.fromkeys(BYTE_TOKENS if model.byte_fallback else (), _BYTE)
    kinds[model.unk_token] = _UNKNOWN
    proto = sentencepiece_model_pb2.ModelProto()
    for token in sorted(ids, key=ids.get):
        score = -ranks.get(token, len(ranks) + ids[token])  # what no merge makes comes last
        proto.pieces.add(piece=token, score=score, type=kinds.get(token, _NORMAL))
    trained, steps = proto.trainer_spec, proto.normalizer_spec
    trained.model_type, trained.vocab_size = _BPE, len(ids)
    trained.byte_fallback, trained.unk_id = model.byte_fallback, ids.get(model.unk_token, -1)
    for name in ("bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{name}_token_id")
        setattr(trained, f"{name}_id", -1 if token_id is None else token_id)
    steps.name, steps.remove_extra_whitespaces = "identity", False
    steps.add_dummy_prefix = b'"Prepend"' in spec.text
    text = _as_bpe(proto, {}, FILE)
    if list(ids.values()) != sorted(ids.values()) or _what_counts(text) != _what_counts(spec.text):
        raise ValueError(
            "this tokenizer.json does what no SentencePiece model says (its normalizer, its ids, "
            "or the order of its merges): put a tokenizer.model in its place"
        )
    return proto.SerializeToString()


def _what_counts(text):
    """What of a `tokenizer.json` decides ids, and texts again."""
    spec = tokenizer_json.parse(text, FILE)
    fields = json.loads(text)
    return spec.model, spec.ids, [fields[k] for k in ("normalizer", "pre_tokenizer", "decoder")]


def _spec(proto, config, where):
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    unknown = [piece.piece for piece in proto.pieces if piece.type == _UNKNOWN]
    is_bytes = any(piece.type == _BYTE for piece in proto.pieces)
    model = tokenizer_json.BPEModel(vocab, [], False, unknown[0], True, is_bytes)
    added = [
        {"id": i, "content": piece.piece, "special": piece.type != _USER_DEFINED}
        for i, piece in enumerate(proto.pieces)
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    tokens = {token["content"]: token for token in [*added, *_added(config, where)]}
    tokens = sorted(tokens.values(), key=lambda token: token["id"])
    ids = {*vocab.values(), *(token["id"] for token in tokens)}
    return tokenizer_json.TokenizerJson(
        b"",
        model,
        tokenizer_json.parse_added_tokens(tokens, model, where),
        normalizer.Normalizer(),
        None,
        _decoder(proto.normalizer_spec.add_dummy_prefix),
        post_processor.from_json(_post_processor(proto, config, tokens), ids, where),
    )


def _post_processor(proto, config, added):
    """What the flags of a `tokenizer_config.json` ask for, as a `tokenizer.json` has it."""
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    ids |= {token["content"]: token["id"] for token in added}
    named = tokenizer_config.named_tokens(_named(proto, config), tokenizer_config.FILE)
    tokens = [named.get(f"{name}_token") for name in ("bos", "eos")]
    return post_processor.to_json(
        *(
            (token, ids[token]) if config.get(f"add_{name}_token") and token in ids else None
            for name, token in zip(("bos", "eos"), tokens, strict=True)
        )
    )


def _decoder(dummy_prefix):
    decoders = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": decoders}


def _added(config, where):
    """The added tokens that a `tokenizer_config.json` names, as a `tokenizer.json` has them."""
    named = config.get("added_tokens_decoder") or {}
    try:
        return [{**token, "id": int(i)} for i, token in named.items()]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: malformed added_tokens_decoder in {tokenizer_config.FILE}: {error!r}"
        ) from error


def _named(proto, config):
    """`config`, with the names that the model itself has for special tokens it does not name."""
    spec = proto.trainer_spec
    ids = (spec.bos_id, spec.eos_id, spec.pad_id, spec.unk_id)
    names = {
        name: proto.pieces[i].piece
        for name, i in zip(tokenizer_config.NAMES, ids, strict=True)
        if 0 <= i < len(proto.pieces)
    }
    return names | config


def _whole_texts(code_points, splits, is_first_part):
    """A splitter that leaves texts whole."""
    del is_first_part
    places = tf.range(tf.size(code_points, tf.int64))
    texts, rows = utf8.from_splits(code_points, splits), tf.range(tf.size(splits, tf.int64))
    return Words(texts, rows, code_points, places)
