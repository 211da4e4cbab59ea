"""A request that costs next to nothing: one float, x, for which the model has another, y."""

import grpc

from export import protocol


def request(model, x):
    """A PredictRequest of that model."""
    made = protocol.PredictRequest()
    made.model_spec.name = model
    proto = made.inputs["x"]
    proto.dtype = protocol.DataType.DT_FLOAT
    proto.tensor_shape.dim.add(size=1)
    proto.float_val.append(x)
    return made


def ask(stub, asked, timeout=60):
    """y.

    Raises:
      ValueError: the server said no, or was not there within `timeout` seconds.
    """
    try:
        return stub.Predict(asked, timeout=timeout).outputs["y"].float_val[0]
    except grpc.RpcError as error:
        raise ValueError(f"{error.code().name}: {error.details()}") from None
