"""Many calls at once, and what they leave behind."""

import collections
import gc
import queue
import threading
import time
from concurrent import futures

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from export import protocol
from export.server import model_config, servable

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
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


class Reflection:
    """A stream that asks once and then says nothing."""

    def __init__(self, server):
        self._requests = queue.SimpleQueue()
        self._requests.put(reflection_pb2.ServerReflectionRequest(list_services="*"))
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        self._call = stub.ServerReflectionInfo(iter(self._requests.get, None), timeout=60)

    def answer(self):
        return next(self._call)

    def is_answered(self):
        try:
            return bool(self.answer())
        except grpc.RpcError:
            return False

    def end(self):
        self._requests.put(None)
        self._call.cancel()


def test_idle_streams_are_in_nobodys_way(server_of, small_dirs):
    server = server_of(servable.load, small_dirs[0].parent, grpc_max_threads=1,
                       enable_grpc_healthcheck_service=True)  # fmt: skip
    health = health_pb2_grpc.HealthStub(server.channel)
    watching = [health.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(40)]
    assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in watching)
    streams = [Reflection(server) for _ in range(16)]
    try:
        for stream in streams:
            assert len(stream.answer().list_services_response.service) == 4
        for _ in range(40):
            refused = Reflection(server)
            streams.append(refused)
            with pytest.raises(grpc.RpcError) as caught:
                refused.answer()
            assert caught.value.code() == EXHAUSTED
            assert caught.value.details() == "Server Threadpool Exhausted"
        assert server.predict(x=[1.0])["y"] == [2.5]
        streams[0].end()  # and leaves room for another
        streams.append(Reflection(server))
        end = time.monotonic() + 60
        while not streams[-1].is_answered():
            assert time.monotonic() < end
            streams.append(Reflection(server))
    finally:
        for stream in streams:
            stream.end()
        for call in watching:
            call.cancel()


def test_reload_that_waits_is_in_nobodys_way(server_of, small_dirs):
    begun, gate = threading.Event(), threading.Event()

    def load(name, version, path):
        if name == "late":
            begun.set()
            assert gate.wait(60)
        return servable.load(name, version, path)

    server = server_of(load, small_dirs[0].parent, grpc_max_threads=1)
    request = protocol.ReloadConfigRequest()
    for name, folder in zip(("toy", "late"), small_dirs, strict=True):
        request.config.MergeFrom(model_config.of_one_model(name, str(folder.parent)))
    call = server.models.HandleReloadConfigRequest.future(request, timeout=60)
    try:
        assert begun.wait(60)
        assert server.predict(x=[1.0])["y"] == [2.5]
        assert not call.done()
    finally:
        gate.set()
    assert call.result().status.error_code == 0
    assert server.predict(model="late", x=[1.0])["y"] == [3.5]
