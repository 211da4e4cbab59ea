import json
import os
import pathlib
import re
import shutil

import huggingface_hub
import numpy as np
import pytest
import tensorflow as tf
import yaml

import gpt_keras
from gpt_keras import tasks, tokenizers
from trainers import args, data, evaluate, finetune
from trainers.features import document_features
from trainers.records import read_records
from trainers.run_folder import read_lines

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SMALL = {"xla": False, "global_batch_size": 8, "learning_rate": 3e-3, "max_length": 24}


@pytest.fixture
def command(model_dir, tmp_path, capsys):
    """Function that runs the program; gives its exit status and what it printed."""

    def run(**values):
        values = {"model": model_dir, "output_dir": tmp_path / "run", **SMALL, **values}
        arguments = [f"--{key}={value}" for key, value in values.items() if value is not None]
        status = args.exit_status(finetune.main, finetune.FLAGS, ["finetune", *arguments])
        return status, capsys.readouterr()

    return run


def lines_with(name, folder):
    return [line for line in read_lines(folder / "metrics.jsonl") if name in line]


def test_classification_from_data_to_report(command, data_dir, tmp_path, capsys):
    folder, path = tmp_path / "run", data_dir / "labelled.jsonl"
    status, printed = command(
        task="classification", train_data=path, eval_data=path, test_data=path, num_epochs=20,
        eval_steps=20, train_top_layers=1, labels="good,bad", learning_rate=1e-2,
        intended_use="Tests.",
    )  # fmt: skip
    assert status == 0, printed.err
    assert "loss" in printed.err
    assert "accuracy" in printed.err
    assert "macro avg" in printed.out
    assert "majority class: accuracy 0.500" in printed.out
    report = json.loads((folder / "report.json").read_text())
    assert report["test"]["accuracy"] > 0.9
    assert report["test"] == report["eval"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["train_top_layers"] == 1
    evaluations = lines_with("eval_accuracy", folder)
    assert [line["step"] for line in evaluations] == [0, 20, 40, 60, 80, 100]

    card = huggingface_hub.ModelCard.load(folder / "model" / "README.md")
    assert card.data.library_name == "gpt-keras"
    assert (
        f"| test | {report['test']['loss']:.4g} | {report['test']['accuracy']:.4g} | " in card.text
    )
    assert "\nTests.\n" in card.text

    model = gpt_keras.SequenceClassifier.from_pretrained(folder / "model")
    assert model.config.id2label == ("good", "bad")
    model.save_pretrained(folder / "model")  # over what was written, card included
    assert not (folder / "model" / "README.md").exists()
    labels, scores = model.classify_texts(tf.constant(["the cat sat good", "a dog ran bad"]))
    assert labels[:, 0].numpy().tolist() == [b"good", b"bad"]
    assert np.all(scores[:, 0].numpy() > 0.5)

    output = tmp_path / "scores.json"
    arguments = [f"--model={folder / 'model'}", "--task=classification", f"--eval_data={path}"]
    arguments += [f"--output={output}", "--batch_size=16"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 0
    assert "confusion matrix" in capsys.readouterr().out
    scores = json.loads(output.read_text())
    assert scores["confusion_matrix"] == report["test"]["confusion_matrix"]
    assert scores["loss"] == pytest.approx(report["test"]["loss"], rel=1e-4)


def test_tensorboard_shows_curves_and_a_confusion_matrix(command, data_dir, tmp_path):
    path = data_dir / "labelled.jsonl"
    assert command(task="classification", train_data=path, max_steps=2)[0] == 0
    tags = set()
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            tags.update(value.tag for value in event.summary.value)
    assert {
        "train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second",
        "eval/loss", "eval/accuracy", "eval/macro_f1", "eval/confusion_matrix",
    } <= tags  # fmt: skip


def test_language_model_on_texts_held_out_by_hash(command, data_dir, tmp_path):
    status, printed = command(
        task="causal_lm", train_data=data_dir / "texts.txt", text_unit="line", eval_fraction=0.3,
        num_epochs=4,
    )  # fmt: skip
    assert status == 0, printed.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    bits = report["loss"] / np.log(2) * report["tokens"]
    assert report["perplexity"] == pytest.approx(np.exp(report["loss"]))
    assert 0 < report["bits_per_byte"] < bits
    losses = [line["eval_loss"] for line in lines_with("eval_loss", tmp_path / "run")]
    assert losses[-1] < losses[0]


@pytest.fixture
def documents(model_dir, data_dir):
    """Token ids of each line of `texts.txt`."""
    lines = read_records([str(data_dir / "texts.txt")], [{"text": "text"}], text_unit="line")
    features = document_features(lines, tokenizers.load(model_dir))
    return [part.tolist() for part in np.split(features.values, features.row_splits[1:-1])]


def test_shards_train_as_the_texts_they_were_made_of(
    command, documents, make_shards, data_dir, tmp_path
):
    make_shards(tmp_path / "shards", documents[6:], documents[:6], per_shard=1000)
    lines = (data_dir / "texts.txt").read_text().splitlines()
    (tmp_path / "texts.txt").write_text("\n".join(lines[6:]))
    options = {
        "task": "causal_lm", "text_unit": "line", "packing": "best_fit", "max_steps": 6,
        "learning_rate": 1e-2,
    }  # fmt: skip
    files = {**options, "train_data": tmp_path / "texts.txt", "eval_fraction": 0}
    printed = command(**files, dry_run=True)[1]
    # A batch of all rows, so that their order does not matter.
    rows = int(re.search(r"train: +(\d+) samples", printed.out)[1])
    shards = {**options, "train_data": tmp_path / "shards"}
    for name, values in (("of_files", files), ("of_shards", shards)):
        status, printed = command(**values, global_batch_size=rows, output_dir=tmp_path / name)
        assert status == 0, printed.err
    losses = [
        [line["loss"] for line in lines_with("loss", tmp_path / name)]
        for name in ("of_files", "of_shards")
    ]
    assert losses[0][-1] < 0.9 * losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    evaluations = lines_with("eval_loss", tmp_path / "of_shards")
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    assert gpt_keras.CausalLM.from_pretrained(tmp_path / "of_shards" / "model").tokenizer


def test_mixture_with_eval_files(command, documents, make_shards, data_dir, tmp_path):
    make_shards(tmp_path / "wiki", documents[:30], documents[:6])
    make_shards(tmp_path / "code", documents[30:])
    status, printed = command(
        task="causal_lm", train_data=f"wiki=3:{tmp_path}/wiki,code=1:{tmp_path}/code",
        eval_data=data_dir / "texts.txt", text_unit="line", max_steps=20, train_top_layers=1,
    )  # fmt: skip
    assert status == 0, printed.err
    assert "eval:   " in printed.out
    losses = [line["eval_loss"] for line in lines_with("eval_loss", tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_shards_that_do_not_fit(command, documents, make_shards, tmp_path):
    make_shards(tmp_path / "shards", documents)
    tokenizers.train_byte_level_bpe(["a b c"] * 9, 300, ["<|endoftext|>"]).save(tmp_path / "other")
    other = make_shards(tmp_path / "other_shards", documents, tokenizer=tmp_path / "other").path
    cases = [
        ({"train_data": other}, 1, "its tokenizer has the SHA-256"),
        ({"task": "chat"}, 2, "--task=chat: --train_data names shards, which hold texts alone"),
        ({"task": "classification", "train_data": f"a=1:{tmp_path}/shards"}, 2, "give files"),
        ({"train_data": f"a=0:{tmp_path}/shards"}, 2, "source 'a' has the weight '0'"),
        ({"global_batch_size": 4096}, 1, "global_batch_size=4096 is larger than the data"),
        ({"eval_data": tmp_path / "shards"}, 2, "holds shards, which are for --train_data of"),
    ]
    for changes, expected, message in cases:
        options = {"task": "causal_lm", "train_data": tmp_path / "shards", **changes}
        status, printed = command(**options)
        assert (status, message in printed.err) == (expected, True), printed.err
        assert printed.err.count("\n") == 1, printed.err
    assert not (tmp_path / "run").exists()


def test_resumes_on_the_same_shards_alone(command, documents, make_shards, tmp_path):
    make_shards(tmp_path / "shards", documents)
    options = {"task": "causal_lm", "train_data": tmp_path / "shards", "max_steps": 1}
    status, printed = command(**options)
    assert status == 0, printed.err
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "shards")
    make_shards(tmp_path / "shards", documents[1:])
    status, printed = command(**options, resume=True)
    assert (status, "the shards of 'shards' are not those that" in printed.err) == (2, True)


def test_chat_learns_what_the_assistant_says(command, data_dir, tmp_path):
    path = data_dir / "chat.jsonl"
    status, printed = command(
        task="chat", train_data=path, eval_data=path, num_epochs=20, global_batch_size=4,
        learning_rate=2e-2,
    )  # fmt: skip
    assert status == 0, printed.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    # "a", the end of the turn: few targets, always the same, soon known.
    assert report["tokens"] <= 12 * 4
    assert report["loss"] < 1.0


def test_dry_run_leaves_nothing(command, data_dir, tmp_path):
    path = data_dir / "labelled.jsonl"
    status, printed = command(
        task="classification", train_data=path, dry_run=True, train_top_layers=1
    )
    assert status == 0
    assert "blocks 1 to 1 and the head" in printed.out
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused(command, data_dir, tmp_path):
    options = {"task": "classification", "train_data": data_dir / "labelled.jsonl"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    status, printed = command(**options, max_steps=1)
    assert (status, printed.err.count("\n")) == (2, 1)
    assert "is not an empty folder, and holds no run" in printed.err

    options["output_dir"] = tmp_path / "other"
    assert command(**options, max_steps=1)[0] == 0
    status, printed = command(**options, max_steps=1)
    assert status == 2
    assert "holds a run already; name another, or continue that one with --resume" in printed.err
    status, printed = command(**options, max_steps=2, resume=True)
    assert status == 2
    assert "--max_steps=2 differs from 1" in printed.err
    status, printed = command(**options, max_steps=1, resume=True)
    assert status == 0
    assert "this run is finished: the model is in" in printed.out


def test_two_tasks_on_one_body(command, data_dir, tmp_path, capsys):
    path = data_dir / "labelled.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    other = tmp_path / "animals.csv"  # another question about the same texts
    lines = [f'"{row["text"]}",{"cat" if "cat" in row["text"] else "other"}\n' for row in rows]
    other.write_text("text,label\n" + "".join(lines))
    options = {
        "task": "mood:classification,animal:classification", "task_weights": "1,2",
        "train_data": f"mood={path},animal={other}", "eval_data": f"mood={path},animal={other}",
        "learning_rate": 1e-2, "num_epochs": 8, "bootstrap": 20,
    }  # fmt: skip
    status, printed = command(**options)
    assert status == 0, printed.err
    assert "warning: 40 of 40 eval samples of animal are in the training data too" in printed.err
    model = tasks.MultiTask.from_pretrained(tmp_path / "run" / "model")
    assert model.tasks["animal"].config.id2label == ("cat", "other")
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert report["mood/accuracy"] > 0.8
    assert report["animal/accuracy"] > 0.8
    assert set(report["tasks"]) == {"mood", "animal"}

    arguments = [f"--model={tmp_path / 'run' / 'model'}", "--task=animal:classification"]
    arguments += [f"--eval_data={other}", "--bootstrap=0", f"--output={tmp_path / 'x.json'}"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["accuracy"] == report["animal/accuracy"]
    for task in ("moood:classification", "classification", "animal:regression", "causal_lm"):
        capsys.readouterr()
        arguments[1] = f"--task={task}"
        assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 1
        assert (
            f"--task={task}: {arguments[0]} has mood:classification, animal:classification; name "
            "one of them" in capsys.readouterr().err
        )
    for changes, message in [
        ({"task_weights": "1"}, "--task_weights=1: expected a number above 0 for each of --task="),
        ({"train_data": path}, "of several tasks, write NAME=FILE; names are mood, animal"),
        ({"task": "mood:classification,mood:classification"}, "--task=mood:classification,mood"),
        ({"task": "causal_lm,classification"}, "--task=causal_lm,classification"),
        ({"task": "mood:classification,multiple_choice"}, "those on whole texts but multiple_choi"),
        ({"task": "my/mood:classification,regression"}, "letters, digits, _ and -, such as topic:"),
    ]:
        status, printed = command(**{**options, "output_dir": tmp_path / "bad", **changes})
        assert (status, message in printed.err) == (2, True), printed.err


def test_multiple_choice_before_and_after_training(command, model_dir, tmp_path):
    """Any language model is asked; what is trained is a language model again."""
    rng, animals = np.random.default_rng(1), ("cat", "dog", "hat")
    rows = []
    for i in range(36):
        order = [str(animal) for animal in rng.permutation(animals)][: 2 + i % 2]
        answer = min(order)  # the first by the alphabet
        rows.append({"question": "the", "choices": order, "answer": answer, "n": i})
    path, output = tmp_path / "animals.jsonl", tmp_path / "scores.json"
    path.write_text("\n".join(map(json.dumps, rows)))

    def evaluated(model, **flags):
        values = {"model": model, "eval_data": path, "output": output, "bootstrap": 0, **flags}
        arguments = [f"--{name}={value}" for name, value in values.items()]
        arguments = ["evaluate", "--task=multiple_choice", "--batch_size=8", *arguments]
        assert args.exit_status(evaluate.main, evaluate.FLAGS, arguments) == 0
        return json.loads(output.read_text())

    before = evaluated(model_dir)
    assert before["questions"] == 36
    assert before["chance"] == pytest.approx(5 / 12)
    assert before["loss"] > evaluated(model_dir, length_normalization="byte")["loss"] > 0.5
    status, printed = command(
        task="multiple_choice", train_data=path, eval_data=path, global_batch_size=12,
        num_epochs=8, learning_rate=1e-2, length_normalization="byte", bootstrap=0,
    )  # fmt: skip
    assert status == 0, printed.err
    assert "always the most frequent place" in printed.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert report["accuracy"] == 1
    assert report["loss"] < before["loss"]
    trained = tmp_path / "run" / "model"
    assert tasks.of(trained) is gpt_keras.CausalLM
    assert evaluated(trained)["loss"] == pytest.approx(report["loss"], rel=1e-4)
    status, printed = command(task="multiple_choice", train_data=path, output_dir=tmp_path / "bad")
    assert status == 1


def test_questions_from_data_to_report(command, tmp_path, capsys):
    """The animal that the question names sat on what is asked for; or it is not told of."""
    rng, rows = np.random.default_rng(2), []
    for i in range(48):
        animals = rng.permutation(["cat", "dog"]).tolist()
        things = rng.permutation(["mat", "hat"]).tolist()
        told = [f"the {a} sat on a {t}" for a, t in zip(animals, things, strict=True)]
        context, asked = " ".join(told[: 1 + i % 4]), animals[i % 4 == 0]
        there = asked in context
        start = context.rfind(things[0 if asked == animals[0] else 1])
        answers = {"text": [context[start : start + 3]], "answer_start": [start]} if there else []
        rows.append({"question": asked, "context": context, "answers": answers, "n": i})
    rows.append({"question": "cat", "context": "a dog", "answers": "cat"})
    path, output = tmp_path / "questions.jsonl", tmp_path / "scores.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    status, printed = command(
        task="extractive_qa", train_data=path, eval_data=path, learning_rate=1e-2, num_epochs=20,
        window_length=16, doc_stride=6, max_answer_length=3, bootstrap=20,
    )  # fmt: skip
    assert status == 0, printed.err
    assert "1 of 49 training samples left out: an answer that is not in its context" in printed.out
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert report["exact_match"] > 0.9
    arguments = [f"--model={tmp_path / 'run' / 'model'}", "--task=extractive_qa", "--bootstrap=0"]
    arguments += [f"--eval_data={path}", f"--output={output}", "--max_length=32"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 0
    found = json.loads(output.read_text())
    assert found["answerable"]["questions"] + found["unanswerable"]["questions"] == 48
    assert found["f1"] == pytest.approx(report["f1"])
    assert found["loss"] == pytest.approx(report["loss"], rel=1e-3)
    capsys.readouterr()


def test_a_mistake_leaves_no_folder_behind(command, data_dir, tmp_path):
    cases = [
        ({"train_data": tmp_path / "none.jsonl"}, 1, "none.jsonl"),
        ({"labels": "good,poor"}, 1, "unknown label 'bad'; known are good, poor"),
        ({"label_column": "stars"}, 1, "stars"),
        ({"global_batch_size": 64}, 1, "global_batch_size=64 is larger than the data"),
        ({"train_top_layers": 9}, 2, "--train_top_layers=9: the model has 2"),
        ({"warmup_steps": 2, "warmup_ratio": 0.1}, 2, "--warmup_steps or --warmup_ratio, not both"),
        ({"warmup_steps": 500}, 1, "warmup_steps=500: give 0 to the"),
        ({"task": None}, 2, "--task is missing; give <causal_lm|chat|classification|"),
        ({"train_data": None}, 2, "--train_data is missing; give files to train on, comma-"),
        (
            {"model": None},
            2,
            "--model is missing; give Hugging Face model directory, .gguf file, or",
        ),
        (
            {"model": tmp_path / "none"},
            1,
            f"error: --model={tmp_path / 'none'}: no such model directory or .gguf file; give one",
        ),
        (
            {"model": tmp_path},
            1,
            f"error: --model={tmp_path}: no model directory: it has no config",
        ),
        ({"task": "poetry"}, 2, "--task=poetry"),
        ({"max_pairs": 0}, 2, "--max_pairs=0: 0 is not a positive integer"),
        ({"contrast_temperature": 0}, 2, "temperature=0: 0.0 is not number >= 1e-06"),
        ({"eval_fraction": 0.0001}, 1, "of 40 records 0 would be held out"),
    ]
    for changes, expected, message in cases:
        options = {"task": "classification", "train_data": data_dir / "labelled.jsonl", **changes}
        status, printed = command(**options)
        assert status == expected, (changes, printed.err)
        assert message in printed.err, changes
        assert printed.err.count("\n") == 1, printed.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "flag", "value"),
    [
        *((task, "labels", "a,b") for task in (
            "regression", "embedding", "ranking", "masked_lm", "multiple_choice", "extractive_qa",
            "causal_lm", "chat", "x:regression,y:embedding",
        )),
        ("classification", "crf", True), ("classification", "max_pairs", 3),
        ("token_classification", "pooling", "mean"), ("chat", "temperature", 2),
        ("x:classification,y:regression", "crf", True),
    ],
)  # fmt: skip
def test_flags_that_the_task_has_no_use_for(command, data_dir, capsys, task, flag, value):
    refusal = f"error: --{flag} is of no use to --task={task}: leave it out"
    path = data_dir / "labelled.jsonl"
    status, printed = command(task=task, train_data=path, **{flag: value})
    assert (status, refusal in printed.err) == (2, True), printed.err
    arguments = ["--model=x", f"--task={task}", f"--eval_data={path}", f"--{flag}={value}"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 2
    assert refusal in capsys.readouterr().err


def test_labels_are_the_models_own_when_it_is_evaluated(capsys):
    arguments = ["--model=x", "--task=classification", "--eval_data=y", "--labels=a,b"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 2
    assert "--labels=a,b: the model has labels of its own" in capsys.readouterr().err


def test_flags_that_one_of_several_tasks_has_a_use_for():
    for task in ("x:classification,y:regression", "relation_extraction", "token_classification"):
        arguments = ["finetune", f"--task={task}", "--labels=a,b", "--nocrf", "--max_pairs=30"]
        data.check_options(args.parse(finetune.FLAGS, arguments))  # defaults are no harm


@pytest.mark.parametrize("recipe", ["brown", "clothing", "relations"])
def test_recipes_without_a_model_say_what_to_give(recipe, tmp_path, capsys):
    common = [f"--config_file={EXAMPLES / recipe}.yaml", f"--output_dir={tmp_path / 'run'}"]
    for given, status, message in (
        (
            [],
            2,
            "error: --model is missing; give Hugging Face model directory, .gguf file, or ORG/",
        ),
        (
            ["--model=/none/x"],
            1,
            "error: --model=/none/x: no such model directory or .gguf file; give",
        ),
    ):
        found = args.exit_status(finetune.main, finetune.FLAGS, ["finetune", *common, *given])
        printed = capsys.readouterr().err
        assert (found, message in printed, printed.count("\n")) == (status, True, 1), printed


def test_evaluate_names_the_flag_of_a_model_that_is_not_there(model_dir, data_dir, capsys):
    given = [f"--model={model_dir}", "--task=causal_lm", f"--eval_data={data_dir / 'texts.txt'}"]
    for flag in ("model", "baseline"):
        arguments = ["evaluate", *given, f"--{flag}=/none/x"]
        assert args.exit_status(evaluate.main, evaluate.FLAGS, arguments) == 1
        assert f"error: --{flag}=/none/x: no such model directory" in capsys.readouterr().err


def test_evaluate_refuses_a_model_without_labels(model_dir, data_dir, capsys):
    path = os.fspath(data_dir / "labelled.jsonl")
    arguments = [f"--model={model_dir}", "--task=classification", f"--eval_data={path}"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 1
    assert "is a CausalLM and no SequenceClassifier; fine-tune it" in capsys.readouterr().err


def test_evaluate_prints_perplexity_of_texts(model_dir, data_dir, capsys):
    arguments = [f"--model={model_dir}", "--task=causal_lm", f"--eval_data={data_dir}/texts.txt"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "perplexity" in printed
    assert "bits_per_byte" in printed


def test_regression(command, tmp_path, capsys):
    rows = [{"text": f"the cat sat {word}", "score": score, "where": ""}
            for word, score in (("good", 2.0), ("bad", -1.0)) for _ in range(12)]  # fmt: skip
    path = tmp_path / "scores.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    status, printed = command(
        task="regression", train_data=path, eval_data=path, num_epochs=30, learning_rate=1e-2
    )
    assert status == 0, printed.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["eval"]
    assert report["mse"] < 0.2 * report["variance"]
    assert report["pearson"] > 0.9
    model = gpt_keras.SequenceRegressor.from_pretrained(tmp_path / "run" / "model")
    values = model.regress_texts(["the cat sat good", "the cat sat bad"]).numpy()
    assert values[0] > values[1] + 1
    arguments = [f"--model={tmp_path / 'run' / 'model'}", "--task=regression"]
    arguments += [f"--eval_data={path}"]
    assert args.exit_status(evaluate.main, evaluate.FLAGS, ["evaluate", *arguments]) == 0
    assert f"{report['mse']:.4f}" in capsys.readouterr().out


def test_several_labels_with_all_that_scarce_data_want(command, tmp_path):
    """Augmented, unfrozen layer by layer, held out by fold, weighted; and calibrated afterwards."""
    words = ("cat", "dog", "mat")
    rows = [
        {"text": " ".join(["the", *there, "sat", str(i)]), "label": "|".join(there)}
        for i in range(4)
        for there in [[w for k, w in enumerate(words) if bits >> k & 1] for bits in range(8)]
    ]
    path = tmp_path / "topics.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    status, printed = command(
        task="classification", problem_type="multi_label_classification", label_separator="|",
        class_weights="balanced", focal_gamma=1, train_data=path, eval_fold="0/4", num_epochs=12,
        learning_rate=1e-2, augment=0.1, mixup=0.2, unfreeze_steps=2, threshold=0.4,
    )  # fmt: skip
    assert status == 0, printed.err
    assert "micro avg" in printed.out
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    params = config["task_specific_params"]["classification"]
    assert params["temperature"] != 1
    assert params["threshold"] == 0.4
    assert len(params["class_weights"].split(",")) == 3
    model = gpt_keras.SequenceClassifier.from_pretrained(tmp_path / "run" / "model")
    labels, scores = model.classify_texts(["the cat dog sat 7"])
    assert set(labels.numpy()[0]) == {b"cat", b"dog", b"mat"}
    assert not np.isclose(scores.numpy().sum(), 1)


@pytest.mark.parametrize("flag", ["augment", "mixup"])
def test_texts_that_must_stay_as_they_are(command, data_dir, flag):
    status, printed = command(task="chat", train_data=data_dir / "chat.jsonl", **{flag: 0.1})
    assert status == 2
    assert f"--{flag}: the texts of --task=chat must stay as they are" in printed.err
