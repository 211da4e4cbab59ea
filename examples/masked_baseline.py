"""What a masked language model has to beat: the two tokens beside the hidden one.

    python -m examples.masked_baseline --model=DIR --max_length=64 \\
        --train_data='data/shakespeare/h*_gut.txt' --eval_data=data/shakespeare/macbeth_gut.txt

Of the training tokens it counts what stands between each pair of neighbours, and behind each token.
A hidden token is the most frequent one between its neighbours; where that pair is new, or a
neighbour is hidden too, the most frequent one behind the left neighbour; else the most frequent of
all. The hidden tokens are those of `trainers.evaluate --task=masked_lm`; tokenizer and options are
the model's. Prints the accuracy.
"""

import collections

import numpy as np
from absl import flags as absl_flags

from gpt_keras import MaskedLM, checkpoint, tokenizers
from trainers import args, data
from trainers.batches import ExampleBatches
from trainers.data_flags import data_flags


def baseline_flags(flags: args.FlagValues) -> None:
    """Baseline."""
    absl_flags.DEFINE_string("model", None, "directory of the model", flag_values=flags)
    absl_flags.DEFINE_list("train_data", None, "files to count", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    args.require(flags, "model", "train_data", "eval_data")
    config, tokenizer = checkpoint.read_config(flags.model), tokenizers.load(flags.model)
    train, evaluation = (
        MaskedLM.examples(
            data.load_records("masked_lm", files, flags), tokenizer, config, flags.max_length
        )
        for files in (flags.train_data, flags.eval_data)
    )
    guess = Neighbours(np.split(train.values, train.row_splits[1:-1]))
    source = ExampleBatches(evaluation, 32, bucket_lengths=[flags.max_length], shuffle=False)
    right, count = np.zeros(2), 0
    for step in range(source.steps_per_epoch):
        batch = source.batch(step)
        for row, places, targets, mask in zip(
            *(batch[name] for name in ("token_ids", "masked_at", "targets", "loss_mask")),
            strict=True,
        ):
            for place, target in zip(places[mask > 0], targets[mask > 0], strict=True):
                right += [guess.most_frequent == target, guess(row, place) == target]
                count += 1
    print(f"{count:,} hidden tokens")
    for name, share in zip(("the most frequent token", "neighbours"), right / count, strict=True):
        print(f"{name:26}{share:.3f}")


class Neighbours:
    """Guesses a token by those beside it.

    Args:
      rows: (T,) int each, tokens to count.
    """

    def __init__(self, rows):
        between, behind, alone = (collections.defaultdict(collections.Counter) for _ in range(3))
        for row in rows:
            row = row.tolist()
            for left, token, right in zip([None, *row[:-1]], row, [*row[1:], None], strict=True):
                between[left, right][token] += 1
                behind[left][token] += 1
                alone[()][token] += 1
        self._between, self._behind = map(_most_frequent, (between, behind))
        self.most_frequent = _most_frequent(alone)[()]

    def __call__(self, row, place: int) -> int:
        """The token at a place of a row (T,), of which it knows the others."""
        left, right = (int(row[i]) if 0 <= i < len(row) else None for i in (place - 1, place + 1))
        found = self._between.get((left, right), self._behind.get(left))
        return self.most_frequent if found is None else found


def _most_frequent(counts):
    return {key: some.most_common(1)[0][0] for key, some in counts.items()}


if __name__ == "__main__":
    args.run(main, [baseline_flags, data_flags])
