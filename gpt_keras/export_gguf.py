"""Writes a language model as a GGUF file, for llama.cpp and what is built on it.

    python -m gpt_keras.export_gguf --model=DIR --output=model.gguf --type=Q8_0

Exit status: 0 done, 1 failed, 2 misused.
"""

import os
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from gpt_keras import program
from gpt_keras.checkpoint import gguf_writer
from gpt_keras.tasks import CausalLM


def define_flags(flags: absl_flags.FlagValues) -> None:
    """The program's flags."""
    absl_flags.DEFINE_string(
        "model", None,
        "Hugging Face model directory, .gguf file, or ORG/NAME[@REVISION] of the Hub",
        flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_string(
        "output", None, "file to write; one that is there is replaced", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "type", "F16", list(gguf_writer.TYPES), "of the matrices; vectors are F32",
        flag_values=flags,
    )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the program with these arguments, program name first, and returns its exit status."""

    def action(flags):
        CausalLM.from_pretrained(flags.model).save_gguf(flags.output, flags.type)
        print(f"{flags.output}: {os.path.getsize(flags.output) / 1e6:,.1f} MB")

    return program.run(argv, __doc__, define_flags, action)


if __name__ == "__main__":
    sys.exit(main(["export_gguf", *sys.argv[1:]]))
