"""Unigram tokenizers of a `tokenizer.json`: T5, XLM-R, ALBERT."""

from gpt_keras.tokenizers import metaspace, tokenizer_json
from gpt_keras.tokenizers.sentence_piece_bpe import SentencePieceBPE, decoder_from_json
from gpt_keras.tokenizers.viterbi import Viterbi


class Unigram(SentencePieceBPE):
    """Unigram with the ids of Hugging Face `tokenizers`, in the graph; see `Tokenizer`.

    Texts come back as those of `SentencePieceBPE` do.
    """

    _model_type = tokenizer_json.UnigramModel

    def _make_parts(self, spec, where):
        self._use_decoder(decoder_from_json(spec.decoder, where))
        steps = metaspace.from_json(spec.pre_tokenizer, where)
        special = [i for token, i in spec.added_tokens.items() if token.special]
        return metaspace.CharSplitter(steps), Viterbi(spec.model, special, where)

    def _encode_words(self, words, allow_special):
        return self._encoder(words, allow_special)

    def _spans(self, words, values, splits, allow_special):
        return self._encoder.spans(words, allow_special)
