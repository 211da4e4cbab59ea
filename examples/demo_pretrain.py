"""From zero: a tokenizer and a small language model on Shakespeare's plays, in minutes.

    make demo-pretrain

Bits per byte on plays held out of the training show how far it has come (8 is knowing nothing; a
general-purpose compressor needs about 3); a sample shows what it sounds like.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

RUN = Path("runs/demo/shakespeare")
PROMPTS = ("MACBETH.\n", "Enter a GHOST.\n")


def main():
    _run("examples.fetch_data", "shakespeare")
    if (RUN / "model").exists():
        print(f"{RUN}: already there; delete it to train anew")
    else:
        shutil.rmtree(RUN, ignore_errors=True)
        _run("trainers.pretrain", "--config_file=examples/shakespeare.yaml", f"--output_dir={RUN}")

    import gpt_keras

    model = gpt_keras.CausalLM.from_pretrained(RUN / "model")
    for prompt in PROMPTS:
        (text,) = model.generate([prompt], max_new_tokens=80, temperature=0.8, top_p=0.95, seed=1)
        print(f"\n--- {prompt.strip()}\n{text}")
    print(f"\nSee the training: {Path(sys.executable).parent}/tensorboard --logdir {RUN}")


def _run(module, *arguments):
    print(f"$ python -m {module} {' '.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
    if status:
        sys.exit(f"demo_pretrain: {module} ended with status {status}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.chdir(Path(__file__).resolve().parent.parent)
    main()
