"""Augmentation: texts that are a little different in every epoch.

Easy data augmentation (Wei & Zou, 2019, https://arxiv.org/abs/1901.11196): words are left out,
change places, or are replaced; by words of the training data, where the paper has synonyms, so that
no dictionary is needed. The characters of Chinese and Japanese are words of their own.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from absl import flags as absl_flags

from gpt_keras.tasks import TASKS
from gpt_keras.tasks.examples import Examples
from trainers.args import FlagValues, UsageError
from trainers.batches import Batch, ExampleBatches

# Kana; Han with its extensions and compatibility forms; their punctuation and wide forms.
_HAN = (
    "\u3001-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uffef"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"([{_HAN}]|[^\s{_HAN}]+)(\s*)")


def augment_flags(flags: FlagValues) -> None:
    """Augmentation."""
    absl_flags.DEFINE_float(
        "augment", 0.0, "share of a training text's words (characters of Chinese) that are left "
        "out, change places or are replaced by others of the training data, anew in every epoch; a "
        "quarter of the texts stays as it is; 0: none; for --task=classification,regression",
        lower_bound=0.0, upper_bound=0.9, flag_values=flags,
    )  # fmt: skip
    absl_flags.DEFINE_float(
        "mixup", 0.0, "alpha of Beta(alpha, alpha), from which the share is drawn in which the "
        "vectors of two training texts, before the head, and their losses are mixed; 0.2 is usual, "
        "0: none; for --task=classification,regression",
        lower_bound=0.0, flag_values=flags,
    )  # fmt: skip


class Augmenter:
    """Changes texts, as a function of (seed, epoch, number of the text).

    Args:
      texts: of the training data; what replaces a word is drawn from their words, each as often as
        it comes.
      rate: share of the words of a text that change, at least one of them.
      seed: see above.
    """

    def __init__(self, texts: Sequence[str], rate: float, seed: int):
        self.rate, self.seed = rate, seed
        counts = Counter(word for text in texts for word, _ in split(text))
        self._words = sorted(counts)
        self._shares = np.cumsum([counts[word] for word in self._words])

    def __call__(self, text: str, epoch: int, number: int) -> str:
        parts = split(text)
        if not parts:
            return text
        rng = np.random.default_rng([self.seed, epoch, number])
        change = (None, self._leave_out, self._swap, self._replace)[rng.integers(4)]
        if change is None:
            return text
        words, spaces = map(list, zip(*parts, strict=True))
        before = text[: len(text) - len(text.lstrip())]
        words, spaces = change(rng, words, spaces)
        return before + join(words, spaces)

    def _leave_out(self, rng, words, spaces):
        stays = rng.random(len(words)) >= self.rate
        stays[rng.integers(len(words))] = True  # never all
        kept = np.flatnonzero(stays)
        return [words[i] for i in kept], [spaces[i] for i in kept]

    def _swap(self, rng, words, spaces):
        for i, j in rng.integers(len(words), size=(self._count(words), 2)):
            words[i], words[j] = words[j], words[i]
        return words, spaces

    def _replace(self, rng, words, spaces):
        for i in rng.choice(len(words), self._count(words), replace=False):
            drawn = rng.integers(self._shares[-1])
            words[i] = self._words[np.searchsorted(self._shares, drawn, side="right")]
        return words, spaces

    def _count(self, words) -> int:
        return max(1, round(self.rate * len(words)))


def split(text: str) -> list[tuple[str, str]]:
    """Words of a text, each with the space behind it."""
    return _WORD.findall(text)


def join(words: Sequence[str], spaces: Sequence[str]) -> str:
    """Undoes `split`; words that would become one have a space between them."""
    parts, ends = [], [*words[1:], "。"]
    for word, space, following in zip(words, spaces, ends, strict=True):
        glued = not (space or _is_han(word) or _is_han(following))
        parts += [word, " " if glued else space]
    return "".join(parts)


def _is_han(word: str) -> bool:
    return re.match(f"[{_HAN}]", word) is not None


class AugmentedBatches(ExampleBatches):
    """Batches of other examples in each epoch, made of the records when it begins.

    Args:
      examples: of the records as they are, of which there are as many.
      make: epoch -> the examples of it, none longer than the last of `bucket_lengths`.
      global_batch_size, **options: as of `ExampleBatches`.
    """

    def __init__(
        self, examples: Examples, make: Callable[[int], Examples], global_batch_size: int, **options
    ):
        super().__init__(examples, global_batch_size, **options)
        self._make, self._options = make, options
        self._epoch: tuple[int, ExampleBatches | None] = -1, None

    def batch(self, step: int) -> Batch:
        epoch = step // self.steps_per_epoch
        if self._epoch[0] != epoch:
            options = {**self._options, "bucket_lengths": self.lengths}
            batches = ExampleBatches(self._make(epoch), self.global_batch_size, **options)
            self._epoch = epoch, batches
        return self._epoch[1].batch(step)


def varies(source) -> bool:
    """Whether a sample of these batches, perhaps of several tasks, differs between epochs."""
    parts = getattr(source, "sources", {"": source}).values()
    return any(isinstance(part, AugmentedBatches) or _is_masked_anew(part) for part in parts)


def _is_masked_anew(source) -> bool:
    return isinstance(source, ExampleBatches) and bool(source.examples.masking and source.shuffle)


def augmented(
    records: Sequence[Mapping], names: Sequence[str], augmenter: Augmenter, epoch: int
) -> list[dict]:
    """Records of an epoch: the texts of these names are changed."""
    return [
        {
            **record,
            **{
                name: augmenter(record[name], epoch, len(names) * number + i)
                for i, name in enumerate(names)
                if name in record
            },
        }
        for number, record in enumerate(records)
    ]


def check_task(task: str, flags: FlagValues) -> None:
    """Raises UsageError for --augment or --mixup with a task whose texts must stay as they are."""
    for name in ("augment", "mixup"):
        if flags[name].value and not (task in TASKS and TASKS[task].free_texts):
            raise UsageError(f"--{name}: the texts of --task={task} must stay as they are")


def augmented_batches(of_task, source: ExampleBatches, tokenizer, flags: FlagValues, pad_id: int):
    """`AugmentedBatches` of a task, as --augment has them.

    Args:
      of_task: `trainers.task_data.TaskData`.
      source: its batches without.
      tokenizer: the model's.
      flags: of `trainers.finetune`.
      pad_id: as of `source`.
    """
    names = TASKS[of_task.task].free_texts
    records = of_task.train.records
    texts = [record[name] for record in records for name in names if name in record]
    augmenter, longest = Augmenter(texts, flags.augment, flags.seed), source.lengths[-1]

    def make(epoch):
        changed = augmented(records, names, augmenter, epoch)
        return TASKS[of_task.task].examples(changed, tokenizer, of_task.config, longest)

    return AugmentedBatches(
        of_task.train,
        make,
        source.global_batch_size,
        seed=flags.seed,
        bucket_lengths=source.lengths,
        pad_id=pad_id,
        mixup=source.mixup,
    )
