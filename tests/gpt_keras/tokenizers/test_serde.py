"""Numbers of a JSON file, as the reference reads them."""

import json
import random

import numpy as np
import tokenizers as hf

from gpt_keras.tokenizers import serde


def test_scores_are_those_of_the_reference():
    rng = random.Random(1)
    numbers = [-rng.random() * 20 for _ in range(3000)]
    numbers += [-rng.random() * 10.0 ** -rng.randrange(20) for _ in range(1000)]
    numbers += [float(np.float32(-rng.random() * 15)) for _ in range(3000)]
    numbers += [0.0, -0.0, 1.5, 12345678901234567890.25, 1e22, 1.5e300]
    text = json.dumps(numbers)
    vocab = json.dumps([[str(i), x] for i, x in enumerate(numbers)])
    model = f'{{"type": "Unigram", "unk_id": 0, "vocab": {vocab}}}'
    fields = f'{{"version": "1.0", "model": {model}, "added_tokens": []}}'
    read = json.loads(hf.Tokenizer.from_str(fields).to_str())["model"]["vocab"]
    found = json.loads(text, parse_float=serde.to_float)
    assert found == [score for _, score in read]
    assert found != numbers  # or the test would say nothing
