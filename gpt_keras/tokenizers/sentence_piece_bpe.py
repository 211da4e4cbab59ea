"""BPE of characters with byte fallback, as SentencePiece makes it: Llama 2, Mistral, Gemma."""

import dataclasses

import tensorflow as tf

from gpt_keras.tokenizers import metaspace
from gpt_keras.tokenizers.byte_fallback import BYTE_TOKENS
from gpt_keras.tokenizers.char_encoder import CharEncoder
from gpt_keras.tokenizers.json_tokenizer import JsonTokenizer


class SentencePieceBPE(JsonTokenizer):
    """BPE of characters with the ids of Hugging Face `tokenizers`, in the graph.

    See `Tokenizer`. Bytes that the tokens of a text leave cut in the middle of a character come
    back from `detokenize` as they are, where the reference puts U+FFFD for each of their run.
    """

    def _make_parts(self, spec, where):
        model = spec.model
        if model.ignore_merges:
            raise ValueError(f"{where}: model with ignore_merges=True: supported for bytes alone")
        self._use_decoder(decoder_from_json(spec.decoder, where))
        encoder = CharEncoder(model, where)
        steps = metaspace.from_json(spec.pre_tokenizer, where)
        return metaspace.CharSplitter(steps, encoder.is_joined), encoder

    def _use_decoder(self, decoder):
        self._decoder = decoder
        if decoder.metaspace:
            tokens = [token.replace(metaspace.MARK, "") for token in self._decoded()]
            self._first_bytes = tf.constant(tokens)

    def _bytes_of(self, token):
        if self._decoder.byte_fallback and token in _BYTES:
            return _BYTES[token]
        return self._decoder.replace(token).encode()

    _bytes_of_added = _bytes_of  # they pass the same decoder

    def _join(self, pieces, ids, is_kept, splits, continues):
        texts = super()._join(pieces, ids, is_kept, splits, continues)
        if self._decoder.strip and not continues:
            pattern = f"^ {{1,{self._decoder.strip}}}"
            texts = tf.strings.regex_replace(texts, pattern, "", replace_global=False)
        return texts


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What the `decoder` of a `tokenizer.json` asks for.

    Attributes:
      replaces: pairs of a string in tokens and what is put for it.
      byte_fallback: whether <0xNN> is a byte.
      strip: how many blanks the beginning of a text loses at most.
      metaspace: whether the first token of a text loses all of ▁.
    """

    replaces: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    strip: int = 0
    metaspace: bool = False

    def replace(self, token: str) -> str:
        for old, new in self.replaces:
            token = token.replace(old, new)
        return token


def decoder_from_json(node, where) -> Decoder:
    """The `decoder` of a `tokenizer.json`.

    Raises:
      ValueError: it asks for something else; the message begins with `where`.
    """
    nodes = node["decoders"] if node and node["type"] == "Sequence" else [node or {}]
    kinds = [part.get("type") for part in nodes]
    if kinds == ["Metaspace"] and nodes[0]["replacement"] == metaspace.MARK:
        scheme = metaspace.scheme(nodes[0], where)
        return Decoder(((metaspace.MARK, " "),), metaspace=scheme != "never")
    replaces = tuple(
        (part["pattern"].get("String"), part["content"])
        for part in nodes
        if part.get("type") == "Replace"
    )
    rest = kinds[len(replaces) :]
    strip = nodes[-1] if rest and rest[-1] == "Strip" else {"start": 0}
    rest = rest[: -1 if strip["start"] else None]
    is_known = (
        rest in (["Fuse"], ["ByteFallback", "Fuse"])
        and kinds[: len(replaces)] == ["Replace"] * len(replaces)
        and all(old for old, _ in replaces)
        and (not strip["start"] or (strip["content"] == " " and not strip["stop"]))
    )
    if not is_known:
        raise ValueError(
            f"{where}: unsupported decoder {node}; supported are Metaspace, and Replace of "
            "strings, ByteFallback, Fuse and Strip of blanks at the beginning, in this order"
        )
    return Decoder(replaces, "ByteFallback" in rest, strip["start"])


_BYTES = {token: bytes([byte]) for byte, token in enumerate(BYTE_TOKENS)}
