import optuna
import pytest

from trainers.args import UsageError
from trainers.search_space import parse_space
from trainers.trainer_process import Trainer

TRIAL = {"learning_rate": 3e-4, "num_epochs": 2, "schedule": "linear", "global_batch_size": 16,
         "xla": "false", "warmup_steps": 7}  # fmt: skip


@pytest.fixture(scope="module")
def trainer():
    return Trainer.parse(["trainers.finetune", "--dropout=0.1", "--noxla"])


def test_each_kind_suggests_what_the_flag_takes(trainer):
    free = Trainer.parse(["trainers.finetune"])
    space = parse_space(
        ["learning_rate=log:1e-5:1e-3", "num_epochs=int:1:4", "schedule=choice:cosine,linear",
         "global_batch_size=int:8:32:8", "xla=choice:true,false", "--warmup-steps=log:1:100"],
        free,
    )  # fmt: skip
    trial = optuna.trial.FixedTrial(TRIAL)
    values = {dimension.flag: dimension.suggest(trial) for dimension in space}
    assert values == TRIAL
    assert {name: (d.low, d.high, d.step, d.log) for name, d in trial.distributions.items()
            if not isinstance(d, optuna.distributions.CategoricalDistribution)} == {
        "learning_rate": (1e-5, 1e-3, None, True), "num_epochs": (1, 4, 1, False),
        "global_batch_size": (8, 32, 8, False), "warmup_steps": (1, 100, 1, True),
    }  # fmt: skip
    assert trial.distributions["schedule"].choices == ("cosine", "linear")
    flags = Trainer.parse(free.command(values, "run")[2:-2]).flags
    assert (flags.learning_rate, flags.xla, flags.warmup_steps) == (3e-4, False, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnin_rate=log:1e-5:1e-3", "has no flag --learnin_rate; did you mean learning_rate"),
        ("zzz=int:1:2", "trainers.finetune has no flag --zzz"),
        ("output_dir=choice:a,b", "--output_dir is set for each trial"),
        ("sample_prompts=choice:a,b", "--sample_prompts is repeatable"),
        ("dropout=float:0:0.5", "--dropout is given a value after -- too"),
        ("xla=choice:true,false", "--xla is given a value after -- too"),
        ("learning_rate", "write learning_rate=log:low:high, "),
        ("learning_rate=uniform:0:1", "write learning_rate=log:low:high, "),
        ("learning_rate=log:0:1e-3", "0.0 has no logarithm"),
        ("learning_rate=float:-1:1", "-1.0 is not a non-negative number"),
        ("learning_rate=float:1:x", "could not convert string to float: 'x'"),
        ("learning_rate=float:2:1", "2.0 is not below 1.0"),
        ("learning_rate=float:0:inf", "0.0 is not below inf"),
        ("learning_rate=float:0:1:0.1", "write float:low:high"),
        ("num_epochs=float:1:4", "--num_epochs takes whole numbers; write int or log"),
        ("num_epochs=int:1:1.5", "invalid literal"),
        ("num_epochs=int:0:3", "0 is not a positive integer"),
        ("num_epochs=int:1:4:2", "steps of 2 do not lead from 1 to 4"),
        ("schedule=int:1:4", "--schedule is no number; write schedule=choice:value,value"),
        ("schedule=choice:cosine,cosin", "cosin"),
        ("schedule=choice:cosine", "give two or more values"),
        ("schedule=choice:cosine,linear,cosine", "give two or more values, each once"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told(trainer, text, message):
    with pytest.raises(UsageError) as error:
        parse_space([text], trainer)
    assert str(error.value).startswith(f"--search={text}: ")
    assert message in str(error.value)


def test_none_and_twice(trainer):
    with pytest.raises(UsageError, match="--search is missing"):
        parse_space([], trainer)
    with pytest.raises(UsageError, match="--search=num_epochs is given twice"):
        parse_space(["num_epochs=int:1:2", "num_epochs=int:2:3"], trainer)
