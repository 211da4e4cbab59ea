"""A server in a process of its own, on a free port of this machine."""

import os
import re
import subprocess
import sys
import tempfile
import threading

NAME = "model"  # as the server calls what it serves


class Server:
    """`python -m export.serve` for one model; a context that ends it.

    Args:
      model_base_path: folder of the model's versions.
      **flags: more flags of the server.

    Attributes:
      address: host:port of its gRPC.

    Raises:
      ValueError: it ended, or opened no port within `timeout` seconds; with its last words.
    """

    def __init__(self, model_base_path, timeout=600, **flags):
        given = {"model_name": NAME, "model_base_path": model_base_path, "port": 0, **flags}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "export.serve", *(f"--{k}={v}" for k, v in given.items())],
            stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        said = self._process.stdout.readline()  # nothing before the port; empty if it ended
        timer.cancel()
        found = re.fullmatch(r"Running gRPC ModelServer at (\S+) \.\.\.\n", said)
        if not found:
            self._process.kill()
            last = (self.log().splitlines() or ["nothing"])[-1]
            self.close()
            raise ValueError(f"{model_base_path}: the server did not start; it said: {last}")
        self.address = found[1]

    def rest_address(self) -> str:
        """host:port of its REST API, which it was given a `rest_api_port` for."""
        said = self._process.stdout.readline()
        return re.fullmatch(r"Exporting HTTP/REST API at:(\S+) \.\.\.\n", said)[1]

    def resident(self) -> int:
        """Bytes of memory that the process has now."""
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def running(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    def log(self) -> str:
        """What it wrote to standard error."""
        self._log.seek(0)
        return self._log.read()

    def close(self):
        """Ends it."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
