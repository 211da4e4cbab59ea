"""Models of the Hugging Face Hub, as directories in its cache."""

import functools
import os
import re

import huggingface_hub
from huggingface_hub import errors

from gpt_keras.checkpoint import sentence_modules

# Nothing that holds code or pickles, and nothing of other formats, which lie in folders.
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_NAME = r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(.+))?"


def is_name(path: str) -> bool:
    """Whether `path`, which does not exist here, may be ORG/NAME or ORG/NAME@REVISION.

    Where ORG is a directory here it is a path with a slip in it, which is nobody else's business.
    """
    found = re.fullmatch(_NAME, path)
    return bool(found) and not path.endswith(".gguf") and not os.path.exists(path.split("/")[0])


@functools.cache  # a program asks for configuration, tokenizer and weights, of one revision
def fetch(name: str, revision: str | None = None, local_files_only: bool = False) -> str:
    """The model's directory in the cache, which is brought up to date if there is a network.

    Args:
      name: ORG/NAME or ORG/NAME@REVISION.
      revision: branch, tag or commit; the default branch without one.
      local_files_only: take what the cache has; HF_HUB_OFFLINE=1 has the same effect.

    Raises:
      ValueError: it cannot be had; the message says why.
    """
    repository, own = re.fullmatch(_NAME, name).groups()
    if own and revision:
        raise ValueError(f"{name}: revision={revision!r} besides; give one of them")
    revision = own or revision
    download = functools.partial(
        huggingface_hub.snapshot_download, repository, revision=revision,
        local_files_only=local_files_only,
    )  # fmt: skip
    try:
        folder = download(allow_patterns=_WANTED, ignore_patterns=["*/*"])
        if sentence_modules.has(folder):
            download(allow_patterns=["*_Pooling/config.json"])
        return folder
    except errors.GatedRepoError:
        problem = "its owner asks for consent: give it on its page, and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        problem = "the Hub has no such model either; for a private one set HF_TOKEN"
    except errors.RevisionNotFoundError:
        problem = f"the Hub's has no revision {revision!r}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        problem = "it is not in the Hub's cache, and the Hub cannot be asked from here"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        problem = f"the Hub's cannot be fetched: {str(error).splitlines()[0]}"
    raise ValueError(f"{name}: no such model directory or .gguf file; {problem}")
