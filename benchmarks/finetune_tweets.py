"""Fine-tuning a classifier of tweets: useful tokens a second, beside Hugging Face's `Trainer`.

    python -m benchmarks.finetune_tweets --output=finetune_tweets.json

Both train the same weights of SmolLM2-135M (all, or --train_top_layers) with AdamW in float32 on
the same tweets, cut at the same length, in batches of as many. Ours are the batches of
`trainers.finetune`: of one length bucket each, padded to its end. Trainer has its defaults: random
batches, padded to their longest tweet (`DataCollatorWithPadding`), and its loop, which gets token
ids and pads them, counts as ours does. Padding is no useful token.

Updates take turns, so that a busy machine is busy for both. Not counted: Trainer's first update,
and ours that compile, one a bucket, of which the seconds are printed. What the frozen blocks say is
computed anew each time, as Trainer does (`--nofrozen_features` of `trainers.finetune`).

Needs the data of `python -m examples.fetch_data smollm2 tweets` and `python -m
examples.prepare_tweets`, and `torch`, `transformers` and `accelerate`.
"""

import collections
import functools
import itertools
import os
import statistics
import tempfile
import time

import numpy as np
from absl import flags as absl_flags

from benchmarks.contenders import use_threads
from benchmarks.tables import markdown
from trainers import args, finetune
from trainers.batches import Prefetcher
from trainers.files import write_json
from trainers.fit import make_step
from trainers.loop import Schedule, count_tokens
from trainers.strategy import make_strategy

GGUF = "data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECIPE = "examples/tweets_small.yaml"
OURS, THEIRS = "gpt-keras", "HF Trainer"


def benchmark_flags(flags: args.FlagValues) -> None:
    """Benchmark."""
    integer = functools.partial(absl_flags.DEFINE_integer, flag_values=flags, lower_bound=1)
    absl_flags.DEFINE_string("model", GGUF, "directory or .gguf file", flag_values=flags)
    integer("updates", 14, "of each that count")
    integer("train_top_layers", 0, "as of trainers.finetune; 0: all weights", lower_bound=0)
    integer("length_buckets", 3, "as of trainers.finetune")
    integer("threads", os.cpu_count() or 1, "threads of each")
    absl_flags.DEFINE_string("output", "", "JSON file for the numbers", flag_values=flags)


def main(flags: args.FlagValues) -> None:
    use_threads(flags.threads)
    recipe = args.parse(
        finetune.FLAGS,
        ["finetune", f"--config_file={RECIPE}", f"--model={flags.model}", "--test_data=",
         f"--train_top_layers={flags.train_top_layers}",
         f"--length_buckets={flags.length_buckets}"],
    )  # fmt: skip
    strategy = make_strategy()
    tuner = finetune.FineTuner(recipe, strategy, mixture=None)
    schedule = Schedule.of(recipe, tuner.data.train.steps_per_epoch)
    with tempfile.TemporaryDirectory() as folder:
        tuner.task.save_pretrained(f"{folder}/model")
        trainer = make_trainer(tuner, recipe, folder, flags, flags.updates + 1)
        source = tuner.data.train
        step = make_step(tuner.task, schedule, recipe, strategy, source.source_names)
        compile_seconds = compile_shapes(step, source)
        seconds, tokens, slots = take_turns(step, source, trainer, flags.updates)
    result = {
        "updates": flags.updates,
        "global_batch_size": recipe.global_batch_size,
        "max_length": recipe.max_length,
        "train_top_layers": flags.train_top_layers,
        "bucket_shapes": source.shapes,
        "compile_seconds": compile_seconds,
        "contenders": {
            name: {
                "useful_tokens_per_second": sum(tokens[name]) / sum(seconds[name]),
                "useful_share": sum(tokens[name]) / sum(slots[name]),
                "seconds_median": statistics.median(seconds[name]),
                "seconds": seconds[name],
                "tokens": tokens[name],
            }
            for name in (OURS, THEIRS)
        },
    }
    print(table(result))
    if flags.output:
        write_json(flags.output, result)


def compile_shapes(step, source) -> float:
    """Takes a step of each shape; the seconds of all."""
    begin, left, numbers = time.perf_counter(), set(source.shapes), itertools.count()
    while left:
        batch = source.batch(number := next(numbers))
        if batch["token_ids"].shape in left:
            left.remove(batch["token_ids"].shape)
            step(batch, number)
    return time.perf_counter() - begin


def make_trainer(tuner: finetune.FineTuner, recipe, folder: str, flags, updates: int):
    """Hugging Face's, with the defaults of transformers where the recipe says nothing."""
    import torch
    import transformers

    torch.set_num_threads(flags.threads)
    kind, collator = {
        "classification": (
            transformers.AutoModelForSequenceClassification,
            transformers.DataCollatorWithPadding,
        ),
        "token_classification": (
            transformers.AutoModelForTokenClassification,
            transformers.DataCollatorForTokenClassification,
        ),
    }[tuner.task.NAME]
    model = kind.from_pretrained(f"{folder}/model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{folder}/model")
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if recipe.train_top_layers:
        frozen = model.model.layers[: -recipe.train_top_layers]
        for part in (model.model.embed_tokens, *frozen):
            part.requires_grad_(False)
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=recipe.global_batch_size,
            max_steps=updates,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            warmup_steps=recipe.warmup_ratio,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        collator(tokenizer),
        train_dataset=rows_of(tuner.data.train.examples),
    )


def rows_of(examples) -> list[dict]:
    """Examples as Trainer takes them; a token without a tag has the label -100."""
    places = examples.row_splits[1:-1]
    labels = examples.targets.get("label")
    if labels is None:
        tags = examples.token_targets["tag"]
        labels = np.split(np.where(tags > 0, tags - 1, -100), places)
    texts = np.split(examples.values, places)
    return [
        {"input_ids": text.tolist(), "labels": label.tolist()}
        for text, label in zip(texts, labels, strict=True)
    ]


def take_turns(step, source, trainer, updates: int):
    """Of each contender, for each update that counts: seconds, real tokens, tokens with padding.

    Trainer's loop runs, and lets ours in between its updates.
    """
    import transformers

    seconds, tokens, slots = ({OURS: [], THEIRS: []} for _ in range(3))

    def count(name, begin, real, padded):
        seconds[name].append(time.perf_counter() - begin)
        tokens[name].append(real)
        slots[name].append(padded)

    class Turns(transformers.TrainerCallback):
        begin = None  # of Trainer's turn, the loading of its batch included

        def on_step_end(self, *_, **__):
            sizes = collated.popleft()
            if self.begin is not None:
                count(THEIRS, self.begin, *sizes)
                begin = time.perf_counter()
                number, batch = next(batches)
                step(batch, number)
                count(OURS, begin, count_tokens(batch), batch["token_ids"].size)
            self.begin = time.perf_counter()

    collated = collections.deque()  # Trainer makes a batch ahead
    collate = trainer.data_collator

    def counted(texts):
        batch = collate(texts)
        collated.append((int(batch["attention_mask"].sum()), batch["input_ids"].numel()))
        return batch

    trainer.data_collator = counted
    trainer.add_callback(Turns())
    with Prefetcher(source, 0, updates) as prefetcher:
        batches = iter(prefetcher)
        trainer.train()
    return seconds, tokens, slots


def table(result: dict) -> str:
    """Markdown."""
    rows = [
        (
            name, f"{row['useful_tokens_per_second']:.0f}", f"{row['useful_share']:.0%}",
            f"{row['seconds_median']:.2f}",
        )
        for name, row in result["contenders"].items()
    ]  # fmt: skip
    head = ("", "useful tokens/s", "share of all tokens", "s an update, median")
    ours, theirs = (row["useful_tokens_per_second"] for row in result["contenders"].values())
    shapes = ", ".join(f"{rows} x {length}" for rows, length in result["bucket_shapes"])
    compiling = f"compiling for {shapes}: {result['compile_seconds']:.0f} s"
    return f"{markdown(head, rows)}\n\n{ours / theirs:.2f} times; {compiling}"


if __name__ == "__main__":
    args.run(main, [benchmark_flags])
