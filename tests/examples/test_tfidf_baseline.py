import json

from examples.tfidf_baseline import baseline_flags, main
from trainers import args


def write(path, rows):
    rows = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path.write_text("\n".join(rows))
    return path


def run(*arguments):
    return args.exit_status(main, [baseline_flags], ["tfidf_baseline", *arguments])


def test_table_has_a_row_for_each_baseline_and_training_set(tmp_path, capsys):
    rows = [(f"a good day {i}", "pos") for i in range(20)]
    rows += [(f"a bad day {i}", "neg") for i in range(10)]
    whole, few = write(tmp_path / "w.jsonl", rows), write(tmp_path / "f.jsonl", rows[5:25])
    test = write(tmp_path / "t.jsonl", [("good", "pos"), ("so bad", "neg"), ("good luck", "pos")])
    assert run(f"--train_data={few}", f"--train_data={whole}", f"--eval_data={test}") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["majority", "class", "20", "0.667", "0.400"]
    assert " ".join(out[4].split()) == "TF-IDF + logistic regression 30 1.000 1.000"
    assert "w.jsonl" in out[6]
    assert any(line.split()[:1] == ["pos"] and line.split()[-1] == "2" for line in out)


def test_micro_f1_leaves_a_label_out(tmp_path, capsys):
    rows = [("a day", "none"), ("a cat sat", "cat"), ("a dog sat", "dog")] * 9
    train = write(tmp_path / "train.jsonl", rows)
    test = write(tmp_path / "t.jsonl", [("day", "none"), ("cat", "cat"), ("dog", "cat")])
    assert run(f"--train_data={train}", f"--eval_data={test}", "--none_label=none") == 0
    assert "micro-F1 of the last without none: 0.500" in capsys.readouterr().out


def test_misuse(tmp_path, capsys):
    assert run("--eval_data=x") == 2
    assert "--train_data and --eval_data: give both" in capsys.readouterr().err
    assert run("--train_data=/none.jsonl", "--eval_data=/none.jsonl") == 1
    assert "/none.jsonl: no such file" in capsys.readouterr().err
