"""Builds `stock_ops.json.gz`: the ops and attributes that a stock TensorFlow Serving knows.

TensorFlow Serving links the core ops of the TensorFlow of its own version, and `ops_lib` of one
release of TensorFlow Text (`workspace.bzl` of each branch): 2.12.1 up to Serving 2.19, 2.20.0 from
Serving 2.20 on. So for each server:

1. in an environment with `tensorflow-cpu` of the server's version (2.19.1, 2.20.0):
       python build_stock_ops.py dump > core.json
2. in one with the text release it links and the TensorFlow that goes with it:
       python build_stock_ops.py dump --text > text.json
   Drop what the wheel has but `ops_lib` of that release lacks, with --without. In 2.12.1 these are
   TFText>RoundRobinTrim, TFText>RoundRobinGenerateMasks and TFText>Utf8Binarize.
3. python build_stock_ops.py pack --server=2.19 --core=core.json --text=text.json --without=...
   adds this server to the file beside this script.

The script needs TensorFlow alone, so that it runs in those environments.
"""

import argparse
import gzip
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).with_name("stock_ops.json.gz")
COMMENT = "server -> library -> op -> attributes; built by build_stock_ops.py, which says how"


def registered_ops():
    """Op name -> sorted attribute names, of all ops of this process."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    ops = op_def_pb2.OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
    return {op.name: sorted(attr.name for attr in op.attr) for op in ops.op}


def dump(text: bool):
    """Prints the core ops, or those that importing tensorflow_text adds to them, as JSON."""
    ops = registered_ops()
    if text:
        import tensorflow_text  # noqa: F401

        ops = {name: attrs for name, attrs in registered_ops().items() if name not in ops}
    json.dump(ops, sys.stdout, indent=0, sort_keys=True)


def pack(server, core, text, without, output):
    """Adds one server's lists to the compressed file."""
    content = {"comment": COMMENT, "servers": {}}
    if output.exists():
        content = json.loads(gzip.decompress(output.read_bytes()))
    libraries = {
        "core": json.loads(core.read_text("utf-8")),
        "text": json.loads(text.read_text("utf-8")),
    }
    for name in without:
        libraries["text"].pop(name)
    content["servers"][server] = libraries
    data = json.dumps(content, separators=(",", ":"), sort_keys=True)
    output.write_bytes(gzip.compress(data.encode(), 9, mtime=0))  # no time: same input, same bytes
    print(f"{output}: server {server}, {len(libraries['core'])} core ops, "
          f"{len(libraries['text'])} text ops")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    dumper = commands.add_parser("dump", help="print the ops of this environment")
    dumper.add_argument("--text", action="store_true", help="those of tensorflow_text alone")
    packer = commands.add_parser("pack", help="add a server to the file")
    packer.add_argument("--server", required=True, help='version of the server, such as "2.20"')
    packer.add_argument("--core", required=True, type=pathlib.Path, help="output of dump")
    packer.add_argument("--text", required=True, type=pathlib.Path, help="output of dump --text")
    packer.add_argument("--without", nargs="*", default=[], help="text ops that ops_lib lacks")
    packer.add_argument("--output", type=pathlib.Path, default=FILE)
    args = vars(parser.parse_args())
    {"dump": dump, "pack": pack}[args.pop("command")](**args)


if __name__ == "__main__":
    main()
