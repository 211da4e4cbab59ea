"""The benchmarks that need no server, one after the other; JSON into a folder.

make bench
"""

import subprocess
import sys
from pathlib import Path

from absl import app, flags

BENCHMARKS = (
    "decode", "train_step", "workers", "memory", "finetune", "finetune_tweets", "finetune_scores",
    "tokenizer", "loading", "prepare_data", "input_wait",
)  # fmt: skip


def main(_):
    folder = Path(flags.FLAGS.output_dir)
    failed = []
    for name in BENCHMARKS:
        print(f"\n=== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--output={folder / name}.json"]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("output_dir", "bench", "folder for the JSON files")
    app.run(main)
