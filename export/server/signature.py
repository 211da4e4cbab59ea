"""What a version says of its signatures, read once.

Requests read it from many threads, and messages of protobuf do not stand that: every access to a
field makes a Python object that a cache of the library finds again, also while Python's garbage
collector, at work in another thread, takes it away. The process dies of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from export import protocol
from export.server import feeds


class TensorInfo(NamedTuple):
    """An input or output.

    Attributes:
      name: of the tensor in the graph.
      dtype: a `DataType`.
    """

    name: str
    dtype: int


class Signature(NamedTuple):
    """A signature of a SavedModel. Make one by `of`.

    Attributes:
      inputs, outputs: name -> TensorInfo.
      defaults: input -> array, for inputs that a request may leave out.
      serialized: the SignatureDef.
    """

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    defaults: Mapping[str, np.ndarray]
    serialized: bytes

    @classmethod
    def of(cls, definition: protocol.SignatureDef) -> "Signature":
        """Raises `ServingError` where a default is no tensor."""
        inputs, outputs = (
            {alias: TensorInfo(info.name, info.dtype) for alias, info in infos.items()}
            for infos in (definition.inputs, definition.outputs)
        )
        defaults = {alias: feeds.parse(alias, v) for alias, v in definition.defaults.items()}
        return cls(inputs, outputs, defaults, definition.SerializeToString())

    def definition(self) -> protocol.SignatureDef:
        """A message of the caller's own."""
        return protocol.SignatureDef.FromString(self.serialized)
