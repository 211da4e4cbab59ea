"""A task is one module: what is put beside the others is learned, written, read and served."""

import json
import pathlib
import shutil
import subprocess
import sys

import gpt_keras
from gpt_keras import tokenizers

ROOT = pathlib.Path(__file__).parents[3]
STANCE = '''
from typing import ClassVar

from gpt_keras.tasks.sequence_classifier import SequenceClassifier


class StanceClassifier(SequenceClassifier):
    """Whose side a text takes."""

    NAME = "stance"
    columns = (("text", "side"),)
    answers = ("side",)
    options: ClassVar = {**SequenceClassifier.options}
    head_tensors: ClassVar = {"score/kernel": "stance.weight"}

    @classmethod
    def labels_in(cls, record, config):
        return [record["side"]]
'''


def test_a_task_is_one_file(tmp_path, tiny):
    for package in ("gpt_keras", "trainers", "export"):
        shutil.copytree(ROOT / package, tmp_path / package)
    (tmp_path / "gpt_keras" / "tasks" / "stance.py").write_text(STANCE)
    tokenizer = tokenizers.train_byte_level_bpe(["for it", "against it"] * 3, 280)
    config = tiny.replace(vocab_size=tokenizer.vocab_size, bos_token_id=0)
    gpt_keras.CausalLM(config, tokenizer).save_pretrained(tmp_path / "body")
    rows = [{"text": f"{word} it", "whose": word} for word in ("for", "against")] * 4
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("trainers.finetune", "--task=stance", "--model=body", "--train_data=x.jsonl",
        "--eval_data=x.jsonl", "--side_column=whose", "--output_dir=run", "--max_steps=2",
        "--global_batch_size=4", "--max_length=16", "--noxla")  # fmt: skip
    written = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert written["architectures"] == ["GptKerasForStanceClassifier"]
    assert written["id2label"] == {"0": "against", "1": "for"}
    shown = run("export.saved_model", "--model=run/model", "--output_dir=served")
    assert "run/model: StanceClassifier" in shown
    assert "loaded into a plain session, it answers as the Python model does" in shown
