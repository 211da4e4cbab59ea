"""Model directories in and out."""

from gpt_keras import tokenizers


def read_config(path):
    raise NotImplementedError


def read_tokenizer(path):
    return tokenizers.load(path)


def read_weights(path, model):
    raise NotImplementedError


def save(model, path):
    raise NotImplementedError
