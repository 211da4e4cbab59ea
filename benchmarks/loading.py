"""How fast a model is in memory, and how much memory that takes, beside a plain read of its file.

    python -m examples.fetch_data smollm2
    python -m benchmarks.loading [--gguf=data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf]

A GGUF file is imported as `gpt_keras.import_checkpoint` does it, program and all, as float32 and
as bfloat16. `model.safetensors` of each directory that comes out is read into memory by one call
of `file.read()`, then the model is loaded from it in float32: median seconds of --rounds of the two
by turns, in one process, the file in the page cache. The peak is that of a process of its own:
resident memory while it loads, without what was there before, over the bytes of the weights.
"""

import gc
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks.tables import markdown
from export import cli
from trainers.files import write_json

GGUF = "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DTYPES = ("float32", "bfloat16")


def import_seconds(gguf, directory, dtype: str = "float32") -> float:
    """Seconds of the program that imports a file."""
    arguments = [f"--source={gguf}", f"--output_dir={directory}", f"--dtype={dtype}"]
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "gpt_keras.import_checkpoint", *arguments], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return time.monotonic() - begin


def load_seconds(directory, rounds: int) -> dict[str, float]:
    """Median seconds of a plain read and of loading, after one of each.

    Args:
      directory: of the model.
      rounds: how often.
    """
    import gpt_keras

    file = pathlib.Path(directory) / "model.safetensors"
    ways = {
        "read": file.read_bytes,
        "load": lambda: gpt_keras.CausalLM.from_pretrained(directory, with_tokenizer=False),
    }
    seconds = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, make in ways.items():
            begin = time.monotonic()
            made = make()
            seconds[way].append(time.monotonic() - begin)
            del made
            gc.collect()  # a model refers to itself
    return {way: statistics.median(found[1:]) for way, found in seconds.items()}


def peak(directory) -> float:
    """Peak memory of loading over the bytes of the weights, measured in this very process."""
    import gpt_keras

    tiny = gpt_keras.GPTConfig(8, 8, 1, 1, 8)
    gpt_keras.CausalLM(tiny)(np.array([[1]]))  # what the first model of a process takes
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    model = gpt_keras.CausalLM.from_pretrained(directory, with_tokenizer=False)
    size = sum(weight.shape.num_elements() * weight.value.dtype.size for weight in model.weights)
    return (_resident("VmHWM") - before) / size


def _resident(name: str) -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s*(\d+) kB", status)[1])


def measure(gguf, rounds: int) -> dict[str, dict[str, float]]:
    """All figures, by the dtype of the file."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            directory = f"{folder}/{dtype}"
            figures = {"import": import_seconds(gguf, directory, dtype)}
            alone = [sys.executable, "-m", "benchmarks.loading", f"--peak_of={directory}"]
            done = subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True)
            figures["peak"] = json.loads(done.stdout)
            found[dtype] = figures | load_seconds(directory, rounds)
    return found


def main():
    values = flags.FLAGS
    if values.peak_of:
        print(json.dumps(peak(values.peak_of)))
        return
    found = measure(values.gguf, values.rounds)
    rows = [
        (
            dtype,
            *(f"{figures[way]:.2f} s" for way in ("import", "read", "load")),
            f"{figures['load'] / figures['read']:.2f}",
            f"{figures['peak']:.2f}",
        )
        for dtype, figures in found.items()
    ]
    heads = ("file", "import of the GGUF", "read", "load", "load / read", "peak / weights")
    print(markdown(heads, rows))
    if values.output:
        write_json(values.output, found)


if __name__ == "__main__":
    flags.DEFINE_string("gguf", GGUF, "GGUF file of the model.")
    flags.DEFINE_integer("rounds", 5, "Times that each is done.", lower_bound=1)
    flags.DEFINE_string("peak_of", "", "Model directory whose peak alone is printed.")
    flags.DEFINE_string("output", "", "JSON file for the figures.")
    cli.run(main)
