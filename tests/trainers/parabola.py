"""A program with a trainer's face that starts at once; its loss is a parabola of its flags.

For tests of what starts trainers. It imports none of them: TensorFlow takes seconds.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import yaml
from absl import flags as absl_flags


def parabola_flags(flags):
    """Parabola."""
    absl_flags.DEFINE_float("x", 0.1, "best at 0.001", lower_bound=0.0, flag_values=flags)
    absl_flags.DEFINE_integer("n", 1, "best at 3", lower_bound=1, flag_values=flags)
    absl_flags.DEFINE_enum("shape", "flat", ["flat", "steep"], "of it", flag_values=flags)
    absl_flags.DEFINE_float("fail_above", 1e9, "x above which it crashes", flag_values=flags)
    absl_flags.DEFINE_float("seconds", 0.0, "of a step", flag_values=flags)
    absl_flags.DEFINE_integer("max_steps", 4, "steps", flag_values=flags)
    absl_flags.DEFINE_boolean("bold", True, "whatever", flag_values=flags)
    absl_flags.DEFINE_multi_string("words", [], "whatever", flag_values=flags)
    absl_flags.DEFINE_list("eval_data", ["x"], "as the real ones have", flag_values=flags)
    absl_flags.DEFINE_float("eval_fraction", 0.1, "as the real ones have", flag_values=flags)
    absl_flags.DEFINE_string("eval_fold", "", "0/K adds 0, 1/K adds 1 ...", flag_values=flags)
    absl_flags.DEFINE_integer("train_samples", 0, "adds 1 / it", flag_values=flags)
    absl_flags.DEFINE_string("output_dir", "", "of the run", flag_values=flags)
    absl_flags.DEFINE_boolean("resume", False, "go on", flag_values=flags)
    absl_flags.DEFINE_boolean("dry_run", False, "do not", flag_values=flags)


FLAGS = (parabola_flags,)


def main():
    flags = absl_flags.FlagValues()
    parabola_flags(flags)
    flags(sys.argv)
    path = os.path.join(flags.output_dir, "metrics.jsonl")
    os.makedirs(flags.output_dir, exist_ok=True)
    with open(os.path.join(flags.output_dir, "config.yaml"), "w") as file:
        yaml.safe_dump({name: flags[name].value for name in flags}, file)
    lines = Path(path).read_text().splitlines() if os.path.exists(path) else []
    print(f"begins after {len(lines)} lines", flush=True)
    loss = (math.log10(flags.x) + 3) ** 2 + (flags.n - 3) ** 2
    loss *= {"flat": 1, "steep": 10}[flags.shape]
    loss += int(flags.eval_fold.split("/")[0] or 0) + 1 / (flags.train_samples or math.inf)
    with open(path, "a") as file:
        for step in range(len(lines) // 2, flags.max_steps + 1):
            time.sleep(flags.seconds)
            for line in ({"step": step, "loss": loss}, {"step": step, "eval_loss": loss}):
                print(json.dumps(line), file=file, flush=True)
            if flags.x > flags.fail_above:
                sys.exit(f"parabola: error: --x={flags.x}: too large")
    for name in ("model", "training_state"):
        with open(os.path.join(flags.output_dir, name), "w") as file:
            file.write("large")
    with open(os.path.join(flags.output_dir, "report.json"), "w") as file:
        json.dump({"eval": {"loss": loss, "tokens": 5.0, "names": ["a"]}}, file)


if __name__ == "__main__":
    main()
