"""Training steps against torch: ten by a golden file, two hundred live."""

import json
import pathlib
import runpy

import numpy as np
import pytest

import gpt_keras
from trainers.optimizer import AdamW
from trainers.schedule import WarmUpThenDecay
from trainers.step import TrainStep
from trainers.strategy import make_strategy

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
MODEL = GOLDEN / "parity" / "llama_tied_gqa"


def train(batches, options, **how):
    """Loss and gradient norm of each step, by ours."""
    strategy = make_strategy()
    with strategy.scope():
        task = gpt_keras.CausalLM.from_pretrained(MODEL)
        schedule = WarmUpThenDecay(
            "cosine",
            options["learning_rate"],
            len(batches),
            options["warmup_steps"],
            options["min_learning_rate_ratio"],
        )
        optimizer = AdamW(
            task.trainable_variables,
            schedule,
            options["weight_decay"],
            beta_1=options["beta_1"],
            beta_2=options["beta_2"],
        )
    step = TrainStep(
        task,
        task.trainable_variables,
        optimizer,
        strategy,
        max_grad_norm=options["max_grad_norm"],
        **how,
    )
    results = []
    for i, batch in enumerate(batches):
        token_ids = np.array(batch["token_ids"], np.int32)
        loss_mask = np.array(batch["loss_mask"], np.float32)
        inputs = {
            "token_ids": token_ids,
            "segment_ids": np.ones_like(token_ids),
            "loss_mask": loss_mask,
        }
        results.append(step(inputs, i))
    return results


def check(actual, expected):
    for name in ("loss", "grad_norm"):
        values = [getattr(step, name) for step in actual]
        reference = [step[name] for step in expected]
        np.testing.assert_allclose(values, reference, rtol=1e-4, err_msg=name)
    assert expected[-1]["loss"] != pytest.approx(expected[0]["loss"], rel=0.01)


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "training.json").read_text())


@pytest.mark.parametrize(
    "how", [{"xla": True}, {"xla": False, "gradient_accumulation_steps": 2}], ids=["xla", "graph"]
)
def test_losses_are_those_torch_had(golden, how):
    check(train(golden["batches"], golden["options"], **how), golden["steps"])


@pytest.mark.oracle
def test_losses_are_those_torch_has_for_200_steps(golden):
    """The same ten batches again and again, until much of them is known by heart."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    script = runpy.run_path(str(GOLDEN / "write_training.py"))
    batches = 20 * script["make_batches"](61)
    expected = script["train"](str(MODEL), batches, golden["options"])
    actual = train(batches, golden["options"], xla=False)
    ours, theirs = ([step.loss for step in actual], [step["loss"] for step in expected])
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert theirs[-1] < 0.6 * theirs[0]
