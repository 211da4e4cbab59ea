"""Where a server may listen."""

import os
import socket

import pytest

from export.server import ports


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


def refusal(path):
    with pytest.raises(OSError, match="cannot listen there") as caught:
        ports.check_unix_socket(path)
    flag, _, reason = str(caught.value).partition(": cannot listen there, ")
    assert flag == f"--grpc_socket_path={path}"
    return reason


def test_unix_socket_of_a_live_server(path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
        server.bind(path)
        server.listen(0)
        message = "Address already in use; end the server that listens there, or give another path"
        assert refusal(path) == message
        server.accept()[0].close()
        waiting.connect(path)  # and now there is no room for one more
        assert refusal(path) == message
        assert os.path.exists(path)


def test_unix_socket_of_a_dead_server(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
    assert os.path.exists(path)
    ports.check_unix_socket(path)
    assert not os.path.exists(path)
    ports.check_unix_socket(path)


def test_path_that_is_no_socket(path):
    with open(path, "w") as file:
        file.write("text")
    assert refusal(path) == "Address already in use; give another path"
    with open(path) as file:
        assert file.read() == "text"
    assert refusal(path + "/x") == "Not a directory; give another path"
    assert refusal(path + "x/x") == "No such file or directory; give another path"
    assert refusal(path + "x" * 200) == "AF_UNIX path too long; give another path"
