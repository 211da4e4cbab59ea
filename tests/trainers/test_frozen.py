import numpy as np
import pytest

import gpt_keras
from trainers.frozen import FrozenFeatures
from trainers.strategy import make_strategy


@pytest.fixture
def task(config):
    return gpt_keras.SequenceClassifier(config.replace(id2label=("a", "b", "c")))


def test_second_epoch_reads_what_the_first_computed(task, label_source, tmp_path):
    path = tmp_path / "features"
    with FrozenFeatures(path, task, make_strategy(), layers=1) as frozen:
        batches = [label_source.batch(i) for i in range(label_source.steps_per_epoch)]
        first = [frozen(batch)["features"] for batch in batches]
        real = [batch["padding_mask"] & (batch["sample_id"] >= 0)[:, None] for batch in batches]
        tokens = sum(mask.sum() for mask in real)
        assert path.stat().st_size == tokens * task.config.hidden_size * 4
        frozen._body = None  # from here on nothing may be computed
        for batch, expected, mask in zip(batches, first, real, strict=True):
            features = frozen(batch)["features"]
            np.testing.assert_array_equal(features[mask], expected[mask])
            assert not features[~mask].any()
        # The same samples in other batches and another padding.
        mixed = {name: value[::2] for name, value in batches[0].items()}
        np.testing.assert_array_equal(frozen(mixed)["features"][:, 0], first[0][::2, 0])
    assert not path.exists()


def test_features_are_what_the_lower_blocks_say(task, label_source, tmp_path):
    batch = label_source.batch(0)
    with FrozenFeatures(tmp_path / "features", task, make_strategy(), layers=1) as frozen:
        features = frozen(batch)["features"]
    expected = task.features(batch, last=1).numpy()
    mask = batch["padding_mask"]
    np.testing.assert_allclose(features[mask], expected[mask], atol=1e-6)
    whole = task(batch["token_ids"], padding_mask=mask)
    upper = task.batch_loss(batch, task.features({**batch, "features": features}, first=1)).outputs
    np.testing.assert_allclose(upper, whole, atol=1e-5)
