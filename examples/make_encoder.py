"""Makes a small encoder for Chinese, without anything learned: BERT whose tokens are characters.

    python -m examples.make_encoder --train_data=data/msra/train.jsonl --output_dir=DIR

No package of a registry carries weights of a Chinese encoder, so what is fine-tuned on it begins
from zero. The characters are those of the records' `tokens` or `text`, and all of ASCII.
"""

import collections

import tokenizers as hf
from absl import flags as absl_flags

from gpt_keras import GPTConfig, MaskedLM, tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from trainers import args
from trainers.records import read_records

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def encoder_flags(flags: args.FlagValues) -> None:
    """Encoder."""
    absl_flags.DEFINE_string("train_data", None, "files with the characters", flag_values=flags)
    absl_flags.DEFINE_string("output_dir", None, "directory of the model", flag_values=flags)
    absl_flags.DEFINE_integer("layers", 2, "blocks", 1, flag_values=flags)
    absl_flags.DEFINE_integer("hidden_size", 192, "width, a multiple of 32", 32, flag_values=flags)
    absl_flags.DEFINE_integer("min_count", 2, "of a character to be known", 1, flag_values=flags)


def main(flags: args.FlagValues) -> None:
    if not flags.train_data or not flags.output_dir:
        raise args.UsageError("--train_data and --output_dir: give both")
    counts = collections.Counter()
    for record in read_records(flags.train_data, [{"tokens": "tokens"}, {"tokens": "text"}]):
        counts.update("".join(record["tokens"]).lower())
    chars = {char for char, count in counts.items() if count >= flags.min_count}
    tokenizer = char_tokenizer(sorted(chars | {chr(code) for code in range(33, 127)}))
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=flags.hidden_size, num_layers=flags.layers,
        num_heads=flags.hidden_size // 32, intermediate_size=4 * flags.hidden_size,
        max_position_embeddings=512, activation="gelu", token_types=2, dropout=0.1, pad_token_id=0,
        model_type="bert", initializer_range=flags.hidden_size**-0.5, **FAMILIES["bert"].fixed,
    )  # fmt: skip
    MaskedLM(config, tokenizer).save_pretrained(flags.output_dir)
    print(f"{flags.output_dir}: {tokenizer.vocab_size:,} tokens, nothing learned yet")


def char_tokenizer(chars) -> tokenizers.WordPiece:
    """BERT's tokenizer with these characters, at the beginning of words and inside of them."""
    tokens = [*SPECIAL, *chars, *(f"##{char}" for char in chars if char.isascii())]
    model = hf.Tokenizer(
        hf.models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    model.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    model.decoder = hf.decoders.WordPiece()
    model.add_special_tokens(list(SPECIAL))
    model.post_processor = hf.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.lower()[1:-1]}_token": name for name in SPECIAL}
    return tokenizers.from_text(model.to_str(), names)


if __name__ == "__main__":
    args.run(main, [encoder_flags])
