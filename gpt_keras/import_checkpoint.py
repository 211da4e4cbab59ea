"""Turns a GGUF file or a preset of KerasHub into a model directory in Hugging Face layout.

    python -m gpt_keras.import_checkpoint --source=model.gguf --output_dir=model_dir

Exit status: 0 done, 1 failed, 2 misused.
"""

import os
import sys
import time
from collections.abc import Sequence

from absl import flags as absl_flags

from gpt_keras import program
from gpt_keras.checkpoint import directory, keras_hub
from gpt_keras.tasks import CausalLM


def define_flags(flags: absl_flags.FlagValues) -> None:
    """The program's flags."""
    absl_flags.DEFINE_string(
        "source", None, "GGUF file, or directory of a KerasHub preset, to read", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "output_dir",
        None,
        "directory to write; a model directory there is replaced, anything else is refused",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "bfloat16", "float16"],
        "of the weights written",
        flag_values=flags,
    )


def main(argv: Sequence[str]) -> int:
    """Runs the program with these arguments, program name first, and returns its exit status."""

    def action(flags):
        import_model(flags.source, flags.output_dir, flags.dtype)

    return program.run(argv, __doc__, define_flags, action)


def import_model(source: str, output_dir: str, dtype: str = "float32") -> None:
    """Reads the causal language model of a GGUF file or preset, writes it as a model directory.

    Raises:
      ValueError: the file, or what is in it, cannot be read; the directory cannot be written.
    """
    if os.path.isdir(source) and not keras_hub.is_preset(source):
        raise ValueError(
            f"--source={source}: is a directory, but no KerasHub preset; give one or a .gguf file"
        )
    directory.check_target(output_dir)  # before the minutes that a large model takes
    start = time.monotonic()
    print(f"reading {source}", flush=True)
    model = CausalLM.from_pretrained(source)
    parameters = sum(weight.shape.num_elements() for weight in model.weights)
    print(
        f"{model.config.model_type} with {parameters / 1e6:.1f} M parameters, "
        f"{model.config.num_layers} layers, {model.config.vocab_size} tokens; "
        f"writing {output_dir}",
        flush=True,
    )
    model.save_pretrained(output_dir, dtype=dtype)
    print(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main(["import_checkpoint", *sys.argv[1:]]))
