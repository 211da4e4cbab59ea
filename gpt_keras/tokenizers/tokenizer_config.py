"""`tokenizer_config.json`: names of the special tokens, and the chat template."""

import json
import os

from gpt_keras.tokenizers.post_processor import PostProcessor

FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")
MASK = "mask_token"
# Classes of transformers that name tokens by default, as old directories leave to them.
_GPT2 = "<|endoftext|>"
_DEFAULTS = {
    kind: {"bos_token": _GPT2, "eos_token": _GPT2, "unk_token": _GPT2}
    for kind in ("GPT2Tokenizer", "GPT2TokenizerFast")
} | {
    f"{kind}Tokenizer{fast}": {MASK: token}
    for kind, token in (("Bert", "[MASK]"), ("Roberta", "<mask>"), ("XLMRoberta", "<mask>"))
    for fast in ("", "Fast")
}

# Those that put no tokens around a text, whatever `tokenizer.json` says.
_PLAIN = {"GPTNeoXTokenizer", "GPTNeoXTokenizerFast"}
_CLASSES = {"gpt2": {"tokenizer_class": "GPT2TokenizerFast"}}  # by model_type of config.json


def read(directory: str) -> dict:
    """Fields of the file, {} if there is none; a template in a file of its own is put in.

    Raises:
      ValueError: malformed; the message names the file.
    """
    fields = {}
    for name in ("special_tokens_map.json", FILE):
        fields |= _read_object(os.path.join(directory, name))
    if "tokenizer_class" not in fields:
        model_type = _read_object(os.path.join(directory, "config.json")).get("model_type")
        fields |= _CLASSES.get(model_type, {})
    path = os.path.join(directory, TEMPLATE_FILE)
    if os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as file:
                fields["chat_template"] = file.read()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not valid UTF-8: {error}; get the file anew") from error
    return fields


def write(fields: dict, directory: str) -> None:
    """Writes the file."""
    with open(os.path.join(directory, FILE), "w", encoding="utf-8") as file:
        json.dump(fields, file, ensure_ascii=False, indent=2)
        file.write("\n")


def _read_object(path):
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise ValueError(f"{path}: not valid JSON: {error}; get the file anew") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields


def named_tokens(fields: dict, where: str) -> dict[str, str]:
    """Which string is the "bos_token" and so on, of those that are named."""
    default = _DEFAULTS.get(fields.get("tokenizer_class"), {})
    tokens = {}
    for name in (*NAMES, MASK):
        token = fields.get(name, default.get(name))
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None and not isinstance(token, str):
            raise ValueError(f"{where}: {name} is {token!r}; expected a string")
        if token:
            tokens[name] = token
    return tokens


def post_processor(fields: dict, given: PostProcessor) -> PostProcessor:
    """What the tokenizer adds, of which `tokenizer.json` says `given`.

    As in transformers 5: `add_bos_token` and `add_eos_token` are for directories without that file.
    """
    plain = PostProcessor(trims=given.trims, has_prefix=given.has_prefix)
    return plain if fields.get("tokenizer_class") in _PLAIN else given


def chat_template(fields: dict, where: str) -> str | None:
    """The template, of several named ones the one named "default"."""
    template = fields.get("chat_template")
    if isinstance(template, list):
        try:
            named = {entry["name"]: entry["template"] for entry in template}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: chat_template is a list of something else than objects with name and "
                "template"
            ) from error
        template = named.get("default")
        if template is None:
            raise ValueError(
                f'{where}: no chat_template is named "default"; there are {", ".join(named)}'
            )
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{where}: chat_template is {template!r}; expected a string or a list")
    return template or None
