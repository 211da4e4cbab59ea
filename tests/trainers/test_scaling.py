import json
import re

import numpy as np
import pytest
from PIL import Image

from gpt_keras import checkpoint
from trainers import args, pretrain, scaling, sweep, trainer_process
from trainers.model_size import config_of_size, count_parameters
from trainers.scaling_law import ParametricLaw
from trainers.trainer_process import Trainer


@pytest.fixture
def command(capsys):
    def run(*trainer, **values):
        argv = ["scaling", *(f"--{name}={value}" for name, value in values.items()), "--", *trainer]
        argv = trainer_process.with_trainer_flags(argv)
        return args.exit_status(scaling.main, scaling.FLAGS, argv), capsys.readouterr()

    return run


def test_a_budget(command):
    status, printed = command(flops="1e20", vocab_size=4096)
    assert status == 0, printed.err
    assert "optimum: 853," in printed.out  # M, by a search along the budget's line too
    assert "loss = 1.817 + 482 / N^0.3478 + 2085.4 / D^0.3658" in printed.out
    assert "arXiv 2404.10102" in printed.out
    assert "40.1 a parameter, loss 2.600 by --law=hoffmann" in printed.out
    assert "extrapolated" not in printed.out
    status, printed = command(flops="1e18", law="hoffmann")
    assert "arXiv 2203.15556" in printed.out
    assert "by --law=besiroglu" in printed.out
    assert "extrapolated: the law was fitted to runs of 6e+18 to 3e+21 FLOPs" in printed.out


def test_what_it_prints_trains_a_model_of_the_size(command, model_dir, data_dir, tmp_path, capsys):
    vocab_size = checkpoint.read_config(model_dir).vocab_size
    _, printed = command(flops="3e13", vocab_size=vocab_size, max_length=32, global_batch_size=4)
    size = int(re.search(r"model: +([\d,]+) parameters", printed.out)[1].replace(",", ""))
    line = printed.out[printed.out.index("-m trainers.pretrain") :].replace("\\\n", "").split()
    given = [word for word in line if word.startswith("--") and not word.endswith("=...")]
    argv = ["pretrain", *given, f"--train_data={data_dir / 'texts.txt'}", "--text_unit=line",
            f"--tokenizer={model_dir}", f"--output_dir={tmp_path}/run", "--dry_run"]  # fmt: skip
    status = args.exit_status(pretrain.main, pretrain.FLAGS, argv)
    described = capsys.readouterr()
    assert status == 0, described.err
    assert f"{size:,} parameters" in described.out
    steps = int(re.search(r"run: +(\d+) steps", described.out)[1])
    assert 6 * size * steps * 4 * 32 == pytest.approx(3e13, rel=0.01)


def test_a_sweep_of_real_runs_and_a_wider_one(command, data_dir, tmp_path):
    folder = tmp_path / "sweep"
    trainer = [
        "trainers.pretrain", f"--train_data={data_dir / 'texts.txt'}", "--text_unit=line",
        "--vocab_size=280", "--max_length=32", "--global_batch_size=8", "--noxla",
        "--learning_rate=1e-2",
    ]  # fmt: skip
    values = {"sweep": True, "output_dir": folder, "budgets": "1e9"}
    status, printed = command(*trainer, **values, tokens_per_parameter="2")
    assert status == 0, printed.err
    (first,) = (folder / "runs").glob("*/metrics.jsonl")
    before = first.stat().st_mtime_ns
    status, printed = command(*trainer, **values, tokens_per_parameter="0.5,2", resume=True)
    assert status == 0, printed.err
    assert first.stat().st_mtime_ns == before  # done is done
    assert "no law:   a law has five constants, and 2 runs do not tell them" in printed.out
    figures = json.loads((folder / "scaling.json").read_text())
    assert figures["law"] is None
    assert len(figures["runs"]) == 2
    for run in figures["runs"]:
        path = folder / "runs" / run["name"]
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert run["tokens"] == sum(line.get("tokens", 0) for line in lines)
        assert run["flops"] == 6 * run["parameters"] * run["tokens"]
        assert run["flops"] == pytest.approx(1e9, rel=0.3)  # an epoch's last batch has padding
        assert run["loss"] == lines[-1]["eval_loss"]
        assert run["loss"] < lines[0]["eval_loss"]
        # The parameters are those of the model that was trained.
        config = json.loads((path / "model" / "config.json").read_text())
        assert config["hidden_size"] == run["hidden_size"]
        assert f"{run['parameters']:,} parameters" in path.with_suffix(".log").read_text()
        assert not (path / "training_state").exists()
    best = min(figures["runs"], key=lambda run: run["loss"])
    assert figures["best"] == [{"budget": 1e9, "name": best["name"]}]
    assert Image.open(folder / "scaling.png").size > (1000, 400)


def made_up_results():
    """Runs that end exactly where a law says."""
    law = ParametricLaw(1.5, 40.0, 500.0, 0.3, 0.4)
    results = []
    for budget in (1e11, 1e12, 1e13):
        for ratio in (5, 20, 80, 320):
            config = config_of_size(np.sqrt(budget / 6 / ratio), 512)
            parameters = count_parameters(config)
            tokens = round(budget / 6 / parameters)
            curve = np.stack([np.linspace(budget / 50, budget, 50), np.linspace(6, 3, 50)], 1)
            loss = law.loss(parameters, tokens)
            results.append(
                sweep.Result(sweep.Run(budget, config, 50), parameters, tokens, loss, curve)
            )
    return law, results


def test_a_sweep_finds_the_law_of_its_runs(tmp_path):
    law, results = made_up_results()
    fitted = sweep.fit_results(results)
    assert fitted.exponent == pytest.approx(law.exponent, rel=0.02)
    text = scaling.report(results, fitted, 1e15)
    assert f"N grows as C^{law.exponent:.2f}, D as C^{1 - law.exponent:.2f}" in text
    assert text.count("best run") == 3
    assert f"1.0e+15:  by the law {scaling.optimum(fitted, 1e15)}" in text
    figures = json.loads(json.dumps(sweep.to_json(results, fitted)))
    assert figures["law"]["exponent"] == fitted.exponent
    assert [best["budget"] for best in figures["best"]] == [1e11, 1e12, 1e13]
    sweep.picture(tmp_path / "with.png", results, fitted)
    sweep.picture(tmp_path / "without.png", results, None)
    with_law, without = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("with", "without"))
    assert np.any(with_law != without)


def test_a_best_run_at_the_edge_is_told():
    _, results = made_up_results()
    edge = min(results, key=lambda result: (result.run.budget, result.parameters))
    results[results.index(edge)] = sweep.Result(
        edge.run, edge.parameters, edge.tokens, 1.0, edge.curve
    )
    text = scaling.report(results, None, None)
    assert f"{edge.parameters:,} parameters, loss 1.0000, the last of its row: widen" in text
    assert text.count("the last of its row") == 1


def test_misuse(command, tmp_path):
    folder = tmp_path / "sweep"
    trainer = ("trainers.pretrain", "--train_data=x")
    on = {"sweep": True, "output_dir": folder}
    cases = [
        ((), {}, "--flops is missing"),
        ((), {"flops": "1e3"}, "flops"),
        ((), {"flops": "1e18", "law": "kaplan"}, "law"),
        ((), on, "write trainers.finetune or trainers.pretrain and its flags at the end"),
        ((), {"flops": "1e18", "output_dir": folder}, "--output_dir is for a sweep; give --sweep"),
        (trainer, {"flops": "1e18"}, "--trainer is for a sweep"),
        (trainer, {**on, "max_length": 64}, "--max_length: a sweep goes by that of trainers.pre"),
        (("trainers.finetune",), on, "a sweep is of trainers.pretrain, not trainers.finetune"),
        ((*trainer, "--num_layers=2"), on, "--num_layers: leave it out, each run is given its own"),
        (("trainers.pretrain",), on, "trainers.pretrain --train_data is missing"),
        ((*trainer, "--eval_fraction=0"), on, "there is nothing to go by"),
        (trainer, {"sweep": True}, "--output_dir is missing"),
        (trainer, {**on, "budgets": "1e9,x"}, "--budgets=1e9,x: could not convert"),
        (trainer, {**on, "budgets": "10"}, "--budgets=10: give numbers from 1e+09"),
        (trainer, {**on, "budgets": "1e9", "dry_run": True}, "--budgets=1e+09: is spent after"),
    ]
    for given, values, message in cases:
        status, printed = command(*given, **values)
        assert (status, message in printed.err) == (2, True), printed.err
    status, printed = command(*trainer, **on, dry_run=True)
    assert (status, printed.out.count(" updates\n") >= 6) == (0, True)
    assert not folder.exists()


def test_a_dry_run_goes_by_the_vocabulary_of_the_shards(command, make_shards, tmp_path):
    path = make_shards(tmp_path / "shards", [[5, 6, 0]]).path
    options = {"sweep": True, "dry_run": True, "output_dir": tmp_path / "sweep"}
    printed = [
        command("trainers.pretrain", f"--train_data={path}", f"--vocab_size={size}", **options)
        for size in (300, 5000)
    ]
    assert printed[0] == printed[1]
    assert printed[0][0] == 0


def test_two_ratios_may_come_to_one_model():
    trainer = Trainer.parse(["trainers.pretrain", "--global_batch_size=1", "--max_length=16"])
    runs = sweep.plan([1e9], [1000, 2000], 300, trainer)
    assert [count_parameters(run.config) for run in runs] == [
        count_parameters(config_of_size(1.0, 300))
    ]


def test_a_sweep_on_shards_takes_their_tokenizer(make_shards, tmp_path):
    shards = make_shards(tmp_path / "wiki", [[1, 2, 3, 0]])
    for train_data in (shards.path, f"wiki=1:{shards.path}"):
        trainer = Trainer.parse(["trainers.pretrain", f"--train_data={train_data}"])
        assert sweep.make_tokenizer(trainer, folder=None) == shards.tokenizer_dir
