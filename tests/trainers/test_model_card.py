import types

import huggingface_hub
import pytest

import gpt_keras
from trainers import args, finetune, pretrain
from trainers.model_card import model_card

SIZES = types.SimpleNamespace(num_samples=1234, num_tokens=56789)


def read(model, program, report, /, evaluated=True, **values):
    arguments = [f"--{name}={value}" for name, value in values.items()]
    flags = args.parse(program.FLAGS, ["program", *arguments])
    data = types.SimpleNamespace(train=SIZES, eval=SIZES if evaluated else None)
    return huggingface_hub.ModelCard(model_card(model, data, flags, report))


@pytest.fixture
def classifier(config):
    return gpt_keras.SequenceClassifier(config.replace(id2label=("no", "yes")))


def test_of_a_classifier(classifier):
    scores = {"loss": 0.123456, "accuracy": 0.9, "confusion_matrix": [[1, 2], [3, 4]]}
    card = read(
        classifier, finetune, {"step": 30, "best_step": 20, "eval": scores, "test": {"loss": 0.5}},
        model="/home/me/runs/tiny", task="classification", train_data="/secret/a.jsonl,b.jsonl",
        eval_data="/secret/dev.jsonl", test_data="/secret/test.jsonl", output_dir="runs/moods",
        learning_rate=0.01, intended_use="Moods of tweets.", license="mit",
    )  # fmt: skip
    assert card.data.to_dict() == {
        "library_name": "gpt-keras", "license": "mit", "pipeline_tag": "text-classification",
        "tags": ["gpt-keras", "tensorflow", "llama"],
    }  # fmt: skip
    text = card.text
    assert "# moods\n" in text
    assert "tiny, fine-tuned for classification, by gpt-keras" in text
    assert "## Intended use\n\nMoods of tweets.\n" in text
    assert "- training: a.jsonl, b.jsonl; 1,234 samples, 56,789 tokens\n" in text
    assert "- evaluation: dev.jsonl; 1,234" in text
    assert (
        "| | loss | accuracy |\n|---|---|---|\n| eval | 0.1235 | 0.9 |\n| test | 0.5 |  |" in text
    )
    assert "Step 30, best step 20." in text
    assert "learning_rate: 0.01\n" in text
    assert "secret" not in card.content
    assert "/home" not in card.content


def test_of_a_language_model_from_zero(config):
    card = read(
        gpt_keras.CausalLM(config), pretrain, {"step": 3, "best_step": 3}, evaluated=False,
        train_data="wiki=0.7:/x/wiki,/x/code/", output_dir="out",
    )  # fmt: skip
    assert card.data.pipeline_tag == "text-generation"
    assert "trained from zero, by gpt-keras" in card.text
    assert "- training: wiki=0.7:wiki, code; " in card.text
    assert "None: there were no evaluation data." in card.text
    assert "`--intended_use`" in card.text
    assert card.data.base_model is None


def test_a_model_of_the_hub_is_named_as_there(classifier):
    card = read(
        classifier, finetune, {"step": 1, "best_step": 1}, model="org/base@v1",
        task="classification", train_data="a.jsonl", output_dir="out",
    )  # fmt: skip
    assert card.data.base_model == "org/base"
    assert "; org/base@v1, fine-tuned for" in card.text
