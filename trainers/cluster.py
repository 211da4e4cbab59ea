"""Cluster: the workers of a run, as `TF_CONFIG` names them, and how they find each other."""

import contextlib
import dataclasses
import json
import os
import select
import socket
import time
from collections.abc import Sequence

from trainers.args import UsageError

GO = "go"
HELLO_SECONDS = 5.0  # for one that has connected to say who it is
LINE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Cluster:
    """All workers of a run, and which of them this process is.

    Worker 0 is the chief: it alone writes.

    Attributes:
      addresses: `host:port` of each.
      index: of this one.
    """

    addresses: tuple[str, ...]
    index: int

    @classmethod
    def from_environment(cls) -> "Cluster":
        """That of the environment variable `TF_CONFIG`.

        Raises:
          UsageError: it is missing, or does not say what it has to.
        """
        text = os.environ.get("TF_CONFIG", "")
        if not text:
            raise UsageError(
                "--strategy=multi_worker: the environment variable TF_CONFIG, which names the "
                "workers, is not set; start them with `python -m trainers.launch --workers=N -- "
                "...`, or by Kubernetes' training operator (deploy/kubernetes-training)"
            )
        try:
            return cls._of(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise UsageError(
                f'TF_CONFIG={text}: {reason}; it has the form {{"cluster": {{"worker": '
                '["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
            ) from error

    @classmethod
    def _of(cls, config: dict) -> "Cluster":
        jobs, task = config["cluster"], config["task"]
        for name in jobs:
            if name not in ("chief", "worker"):
                raise ValueError(f"a cluster of chief and workers has no {name!r}")
        chiefs, workers = list(jobs.get("chief", ())), list(jobs.get("worker", ()))
        if len(chiefs) > 1:
            raise ValueError(f"{len(chiefs)} chiefs")
        addresses = (*chiefs, *workers)
        for address in addresses:
            _host_and_port(address)
        if len(set(addresses)) < len(addresses):
            raise ValueError("one address for two workers")
        kind, index = task["type"], int(task["index"])  # the operator writes numbers, others texts
        if not 0 <= index < len(jobs.get(kind, ())):
            raise ValueError(f"the cluster has no {kind} {index}")
        return cls(addresses, index + (len(chiefs) if kind == "worker" else 0))

    def name(self, index: int) -> str:
        return f"worker {index} ({self.addresses[index]})"

    def meet(self, seconds: float) -> None:
        """Returns once all workers are there.

        TensorFlow, which connects them afterwards, waits for ever for one that does not come, and
        cannot say for which.

        Raises:
          ValueError: one did not come in time, or has another TF_CONFIG; this one's port is taken.
        """
        deadline = time.monotonic() + seconds
        try:
            with self._listen() as server:
                if self.index:
                    self._report(deadline, seconds)
                else:
                    self._call_roll(server, deadline)
        except TimeoutError as error:
            raise ValueError(f"{error} within --join_seconds={seconds:g}") from error

    def _listen(self) -> socket.socket:
        """Where TensorFlow will listen, which could not say so clearly that it cannot."""
        host, port = _host_and_port(self.addresses[self.index])
        # All interfaces, as TensorFlow will: the name may be one that others know this host by.
        where = host if _is_loopback(host) else ""
        try:
            return socket.create_server((where, port), backlog=len(self.addresses))
        except OSError as error:
            name = self.name(self.index)
            raise ValueError(f"{name}: cannot listen there: {os.strerror(error.errno)}") from error

    def _call_roll(self, server: socket.socket, deadline: float) -> None:
        """The chief's part."""
        here: dict[int, socket.socket] = {}
        answer = f"{self.name(0)} has been stopped"
        try:
            with server:
                self._gather(server, here, deadline)
            answer = GO
        except (TimeoutError, ValueError) as error:
            answer = str(error)
            raise
        finally:
            for connection in here.values():
                with connection:
                    _send(connection, {"answer": answer})

    def _gather(self, server, here: dict[int, socket.socket], deadline: float) -> None:
        while len(here) < len(self.addresses) - 1:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([server, *here.values()], [], [], left)
            if not ready:
                missing = [i for i in range(1, len(self.addresses)) if i not in here]
                raise TimeoutError(f"{', '.join(map(self.name, missing))} did not join")
            for index in [i for i, connection in here.items() if connection in ready]:
                here.pop(index).close()  # it has nothing more to say: it is gone
            if server in ready:
                self._welcome(server.accept()[0], here)

    def _welcome(self, connection: socket.socket, here: dict[int, socket.socket]) -> None:
        hello = _receive(connection, HELLO_SECONDS)
        index = hello.get("index")
        if not isinstance(index, int) or index < 1:
            connection.close()  # no worker: a probe, a scan
            return
        if index in here:
            here.pop(index).close()  # it has been started anew
        here[index] = connection
        if hello.get("addresses") != list(self.addresses):
            raise ValueError(
                f"worker {index} has another TF_CONFIG: its workers are {hello.get('addresses')}, "
                f"those of worker 0 {list(self.addresses)}"
            )

    def _report(self, deadline: float, seconds: float) -> None:
        """The part of the others."""
        hello = {"index": self.index, "addresses": list(self.addresses)}
        while (left := deadline - time.monotonic()) > 0:
            try:
                with socket.create_connection(_host_and_port(self.addresses[0]), left) as chief:
                    _send(chief, hello)
                    # The chief, which may have begun to wait later, says in the end who misses.
                    answer = _receive(chief, seconds + HELLO_SECONDS).get("answer")
            except OSError:
                answer = None
            if answer == GO:
                return
            if answer:
                raise ValueError(answer)
            time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))
        raise TimeoutError(f"{self.name(0)} did not answer {self.name(self.index)}")


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _send(connection: socket.socket, message: dict) -> None:
    with contextlib.suppress(OSError):  # it is gone
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> dict:
    """The message of a line; {} for anything else, or nothing in time."""
    connection.settimeout(seconds)
    try:
        message = json.loads(connection.makefile("rb").readline(LINE_BYTES))
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}


def free_addresses(count: int) -> Sequence[str]:
    """As many addresses of this host that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    finally:
        for s in sockets:
            s.close()
