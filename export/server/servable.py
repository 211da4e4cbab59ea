"""A SavedModel in a session of its own.

The session is the `DirectSession` that the stock server runs too, reached below the checks that
`tf.compat.v1.Session.run` makes in Python. So what a client sees of dtypes, shapes, deadlines and
failing ops is the same, word for word.
"""

import gc
import math
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - a stock server links its ops in
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.saved_model import loader_impl

from export import protocol
from export.server import errors
from export.server.signature import Signature

_NO_SAVED_MODEL = (
    "Could not find SavedModel .pb or .pbtxt at supplied export directory path: {}. Check that "
    "the directory exists and that you have the right permissions for accessing it."
)
_NO_META_GRAPH = (
    "Could not find meta graph def matching supplied tags: {{ {} }}. To inspect available tag-sets "
    "in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
)


class Servable:
    """One loaded version of a model. Thread-safe. Get one from `load`.

    Attributes:
      name, version: of the model.
      signatures: name -> Signature.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: tf.compat.v1.Session,
        signatures: Mapping[str, Signature],
    ):
        self.name, self.version, self.signatures = name, version, signatures
        self._session = session
        self._outputs = {}  # tensor name -> TF_Output

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """One `Session::Run`.

        Args:
          inputs: tensor name -> value.
          outputs: names of tensors to compute.
          deadline: when to stop, on the clock of `time.monotonic`; None for never.

        Returns:
          The values of `outputs`.

        Raises:
          ServingError: what the session said, or DEADLINE_EXCEEDED.
        """
        session = self._session  # kept until the run is over, whoever closes it meanwhile
        if session is None:
            raise errors.session_closed()
        feed = {self._output(session, name): value for name, value in inputs.items()}
        names = list(dict.fromkeys(outputs))  # two names of a signature may be the same tensor
        fetch = [self._output(session, name) for name in names]
        options = protocol.RunOptions(timeout_in_ms=_milliseconds_left(deadline))
        buffer = pywrap_tf_session.TF_NewBufferFromString(options.SerializeToString())
        try:
            values = pywrap_tf_session.TF_SessionRun_wrapper(
                session._session, buffer, feed, fetch, [], None
            )
        except tf.errors.OpError as error:
            raise errors.of_op_error(error) from error
        except UnicodeDecodeError as error:
            # A message that quotes bytes of the request; TensorFlow loses its code on the way.
            raise errors.invalid_argument(error.object.decode(errors="replace")) from error
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
        # A scalar comes as a number or as bytes, not as an array.
        arrays = (np.asarray(v, object if isinstance(v, bytes) else None) for v in values)
        found = dict(zip(names, arrays, strict=True))
        return [found[name] for name in outputs]

    def close(self) -> None:
        """Stops what still runs and gives the memory back."""
        self._session.close()
        self._session, self._outputs = None, {}
        gc.collect()  # a graph's operations refer to it and it to them

    def _output(self, session: tf.compat.v1.Session, name: str):
        known = self._outputs  # `close` puts another in its place
        if name not in known:
            full = name if ":" in name else f"{name}:0"
            try:
                tensor = session.graph.get_tensor_by_name(full)
            except (KeyError, ValueError) as error:
                raise errors.invalid_argument(
                    f"Tensor {name}, specified in either feed_devices or fetch_devices was not "
                    "found in the Graph"
                ) from error
            known[name] = tensor._as_tf_output()
        return known[name]


def load(
    name: str,
    version: int,
    directory: str,
    tags: Sequence[str] = ("serve",),
    config: protocol.ConfigProto | None = None,
) -> Servable:
    """Loads a SavedModel: its graph, variables, tables and assets.

    Args:
      name, version: of the model.
      directory: with `saved_model.pb` in it.
      tags: of the graph to take.
      config: of the session, such as its threads.

    Raises:
      ServingError: there is no such SavedModel, or it cannot be loaded.
    """
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with graph.as_default():
            meta_graph = _read(directory, tags).load(session, list(tags))
        graph.finalize()
        session._extend_graph()  # `Session.run` does this; `Servable.run` goes past it
        signatures = {key: Signature.of(found) for key, found in meta_graph.signature_def.items()}
        return Servable(name, version, session, signatures)
    except errors.ServingError:
        session.close()
        raise
    except tf.errors.OpError as error:
        session.close()
        raise errors.of_op_error(error) from error
    except Exception as error:
        session.close()
        raise errors.of_exception(error) from error


def _read(directory: str, tags: Sequence[str]) -> loader_impl.SavedModelLoader:
    try:
        loader = loader_impl.SavedModelLoader(directory)
    except OSError as error:
        if tf.saved_model.contains_saved_model(directory):
            message = f"Can't parse {directory}/saved_model.pb as binary proto"
            raise errors.ServingError(grpc.StatusCode.DATA_LOSS, message) from error
        raise errors.not_found(_NO_SAVED_MODEL.format(directory)) from error
    graphs = loader.saved_model.meta_graphs
    if not any(set(graph.meta_info_def.tags) == set(tags) for graph in graphs):
        raise errors.not_found(_NO_META_GRAPH.format(" ".join(tags)))
    return loader


def _milliseconds_left(deadline: float | None) -> int:
    """What `RunOptions.timeout_in_ms` wants, 0 for no limit."""
    if deadline is None:
        return 0
    left = math.ceil((deadline - time.monotonic()) * 1000)
    if left <= 0:  # spent in a queue; a session would take it for no limit
        raise errors.deadline_exceeded()
    return left
