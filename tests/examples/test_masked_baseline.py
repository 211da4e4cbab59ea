"""Hidden tokens, found by their neighbours."""

import numpy as np

from examples import masked_baseline
from gpt_keras import GPTConfig, MaskedLM, tokenizers
from gpt_keras.checkpoint.families import FAMILIES
from trainers import args

FLAGS = [masked_baseline.baseline_flags, masked_baseline.data_flags]


def test_neighbours():
    rows = [np.array(row) for row in ([1, 5, 2], [1, 5, 2], [1, 6, 2], [1, 7], [1, 7], [1, 7], [9])]
    guess = masked_baseline.Neighbours(rows)
    assert guess(np.array([1, 0, 2]), 1) == 5  # between the two
    assert guess(np.array([1, 0, 8]), 1) == 7  # behind the left one
    assert guess(np.array([1, 0]), 1) == 7  # the end is a neighbour as well
    assert guess(np.array([8, 0, 2]), 1) == guess.most_frequent == 1


def test_report(tmp_path, capsys):
    tokenizer = tokenizers.train_byte_level_bpe(["a b"], 300, ["<|end|>", "<m>"], mask_token="<m>")
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, num_layers=1, num_heads=1,
        intermediate_size=8, max_position_embeddings=32, token_types=2, model_type="bert",
        **FAMILIES["bert"].fixed,
    )  # fmt: skip
    MaskedLM(config, tokenizer).save_pretrained(tmp_path / "model")
    text = tmp_path / "a.txt"
    text.write_text("abcd" * 8)
    command = ["masked_baseline", f"--model={tmp_path / 'model'}", f"--train_data={text}"]
    assert args.exit_status(masked_baseline.main, FLAGS, command) == 2
    assert "--eval_data is missing" in capsys.readouterr().err
    command += [f"--eval_data={text}", "--max_length=32"]
    assert args.exit_status(masked_baseline.main, FLAGS, command) == 0
    count, frequent, neighbours = (
        line.split()[-1] for line in capsys.readouterr().out.splitlines()
    )
    assert count == "tokens"
    # What two letters beside it are always tells, unless a neighbour is hidden or replaced too.
    assert float(neighbours) > float(frequent)
    assert float(frequent) < 0.5
