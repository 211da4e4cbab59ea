"""Many calls at once, and what they leave behind."""

import collections
import gc
from concurrent import futures

import grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def refused(server):
    """The code of a call that fails after its inputs have been read."""
    try:
        server.predict("two", a=[1.0, 2.0], b=[1.0, 2.0, 3.0])
    except grpc.RpcError as error:
        return error.code()
    return None


def test_many_refusals_at_once(server, inside):
    with futures.ThreadPoolExecutor(8) as threads:
        codes = collections.Counter(threads.map(lambda _: refused(server), range(6000)))
    assert codes == {INVALID: 6000}
    assert server.predict(x=[1.0])["y"] == [2.5]


def test_a_refusal_leaves_no_garbage(server, inside):
    refused(server)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            refused(server)
        assert gc.collect() < 20
    finally:
        gc.enable()
