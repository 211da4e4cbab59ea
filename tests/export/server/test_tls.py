"""Keys and certificates of gRPC; what it does with them is in test_serve.py."""

import subprocess
import sys

import trustme
from google.protobuf import text_format

from export.server import text_messages

# Tells of every file that Python opens to write, by name.
_PROGRAM = """
import os, sys
from export.server import tls

def note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            print(event, args)

sys.addaudithook(note)
assert tls.credentials(sys.argv[1]) is not None
print("done")
"""


def test_key_gets_on_no_disk(tmp_path):
    made = trustme.CA().issue_cert("localhost")
    (chain,) = made.cert_chain_pems
    config = text_messages.SSLConfig(
        server_key=made.private_key_pem.bytes().decode(), server_cert=chain.bytes().decode()
    )
    file = tmp_path / "ssl.config"
    file.write_text(text_format.MessageToString(config))
    command = [sys.executable, "-c", _PROGRAM, str(file)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.stdout == "done\n", told.stdout + told.stderr
