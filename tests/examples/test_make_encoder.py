"""BERT's tokenizer of characters."""

import json

import pytest

import gpt_keras
from examples import make_encoder
from trainers import args


def test_tokenizer_of_characters():
    tokenizer = make_encoder.char_tokenizer(["北", "京", "a", "b"])
    rows = tokenizer.tokenize(["北京ab", "ba天"]).to_list()
    tokens = [[tokenizer.id_to_token(i) for i in row] for row in rows]
    assert tokens == [["北", "京", "a", "##b"], ["b", "##a", "[UNK]"]]


@pytest.mark.parametrize("column", ["text", "tokens"])
def test_characters_that_come_twice_are_known(tmp_path, column):
    texts = ["房间很干净", "服务很好, OK", "很干净"]
    rows = [{column: text if column == "text" else list(text)} for text in texts]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = [f"--train_data={tmp_path}/x.jsonl", f"--output_dir={tmp_path}/model"]
    argv = ["make_encoder", *flags, "--hidden_size=32", "--layers=1"]
    assert args.exit_status(make_encoder.main, [make_encoder.encoder_flags], argv) == 0
    model = gpt_keras.MaskedLM.from_pretrained(tmp_path / "model")
    (row,) = model.tokenizer.tokenize(["很净 ok好"]).to_list()
    tokens = [model.tokenizer.id_to_token(i) for i in row]
    assert tokens == ["很", "净", "o", "##k", "[UNK]"]
    assert (model.config.hidden_size, model.config.num_layers) == (32, 1)
