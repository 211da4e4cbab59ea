"""Which versions of a model lie in its folder, and which of them its policy wants served."""

import logging
import os
import re

from export import protocol
from export.server import errors

_NUMBER = re.compile(r"\s*([+-]?[0-9]+)\s*", re.ASCII)  # absl::SimpleAtoi
_INT64 = range(-(2**63), 2**63)

log = logging.getLogger(__name__)


def find(base_path: str) -> dict[int, str]:
    """The versions in a folder: everything in it whose name is a number, with leading zeros or not.

    Returns:
      version -> path.

    Raises:
      OSError: the folder cannot be read.
    """
    found = {}
    for name in sorted(os.listdir(base_path)):
        match = _NUMBER.fullmatch(name)
        if match and int(match[1]) in _INT64:
            version = int(match[1])
            if version in found:
                log.warning("%s: version %d is in %s too; that one is ignored",
                            base_path, version, found[version])  # fmt: skip
            found[version] = os.path.join(base_path, name)
    return found


def check_links(directory: str) -> None:
    """That a version's files lie in the folder of its model, whatever links lead there.

    The stock server follows links anywhere.

    Raises:
      ServingError: PERMISSION_DENIED, a link leads out.
    """
    base_path = os.path.dirname(os.path.abspath(directory))
    found = [directory]
    for folder, folders, files in os.walk(directory):
        found += [os.path.join(folder, name) for name in (*folders, *files)]
    for path in found:
        if not lies_in(path, base_path):
            raise errors.permission_denied(f"{path} leads out of the model's folder {base_path}")


def lies_in(path: str, folder: str) -> bool:
    """Whether links, if there are any, lead to a place in the folder."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root


def wanted(config: protocol.ModelConfig) -> dict[int, str]:
    """The versions to serve, by the policy of the model: the newest one unless it says otherwise.

    Returns:
      version -> path.

    Raises:
      OSError: the folder cannot be read.
    """
    found, policy = find(config.base_path), config.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            versions = found
        case "specific":
            versions = set(policy.specific.versions) & found.keys()
        case _:
            versions = sorted(found)[-max(policy.latest.num_versions, 1) :]
    return {version: found[version] for version in versions}
