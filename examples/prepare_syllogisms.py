"""Makes syllogisms to answer with Yes or No: questions with choices, for --task=multiple_choice.

    pip install reasoning-gym==0.1.25
    python -m examples.prepare_syllogisms

They are generated: the package `reasoning-gym` (Apache-2.0) draws two premises and a conclusion
about random kinds of beings, and says by the rules of logic whether it follows. Writes train.jsonl,
dev.jsonl and test.jsonl, each with as many of either answer, and no question twice.
"""

import json
import os

from absl import flags as absl_flags

from trainers import args
from trainers.files import replacing

SIZES = {"train": 400, "dev": 100, "test": 200}
CHOICES = ["Yes", "No"]


def syllogism_flags(flags: args.FlagValues) -> None:
    """Syllogisms."""
    absl_flags.DEFINE_string(
        "output_dir", "data/syllogisms", "folder for the JSONL files", flag_values=flags
    )
    absl_flags.DEFINE_integer("seed", 1, "of what is drawn", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise ValueError(f"{error}: pip install reasoning-gym==0.1.25") from error
    # More than are kept: conclusions that follow come more often, and questions again.
    drawn = create_dataset(
        "syllogism", size=6 * sum(SIZES.values()), seed=flags.seed, invalid_ratio=0.5
    )
    for name, rows in split(drawn, SIZES).items():
        path = os.path.join(flags.output_dir, f"{name}.jsonl")
        with replacing(path) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{len(rows):,} questions written to {path}")


def split(drawn, sizes: dict[str, int]) -> dict[str, list[dict]]:
    """Name of each part -> its records, as many of either answer in turns, no question twice.

    Raises:
      ValueError: too few were drawn.
    """
    by_answer: dict[str, dict[str, None]] = {choice: {} for choice in CHOICES}
    for one in drawn:
        by_answer[one["answer"]][f"{one['question']}\nAnswer:"] = None
    pairs = list(zip(*by_answer.values(), strict=False))
    if 2 * len(pairs) < sum(sizes.values()):
        raise ValueError(f"{2 * len(pairs)} different questions: too few for {sizes}")
    parts = {}
    for name, size in sizes.items():
        parts[name] = [
            {"question": question, "choices": CHOICES, "answer": answer}
            for pair in pairs[: size // 2]
            for question, answer in zip(pair, CHOICES, strict=True)
        ]
        pairs = pairs[size // 2 :]
    return parts


if __name__ == "__main__":
    args.run(main, [syllogism_flags])
