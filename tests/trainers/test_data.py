import json

import numpy as np
import pytest

from gpt_keras import GPTConfig
from gpt_keras.tokenizers import train_byte_level_bpe
from trainers import args, data
from trainers.data_flags import data_flags, task_flags, train_data_flags

CONFIG = GPTConfig(
    vocab_size=280, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8, bos_token_id=256
)
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}[assistant]"


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(
        ["The cat sat on the mat. "] * 2, 280, ["<|end|>"], chat_template=TEMPLATE
    )


def flags(*arguments):
    return args.parse([train_data_flags, data_flags, task_flags], ["program", *arguments])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


def load(task, patterns, tokenizer, flag_values, labels=()):
    records = data.load_records(task, patterns, flag_values)
    config = data.configure(task, CONFIG.replace(id2label=labels), flag_values)
    return data.make_features(task, records, tokenizer, flag_values, config)


def source(features, flag_values, **options):
    options = {"global_batch_size": 4, "shuffle": True, **options}
    return data.batch_source(features, flag_values, **options)


def test_classification_from_files_to_batches(tmp_path, tokenizer):
    rows = [{"tweet": "The cat sat. " * (i % 9), "mood": "ab"[i % 2]} for i in range(30)]
    flag_values = flags("--text_column=tweet", "--label_column=mood", "--max_length=30")
    features = load("classification", write(tmp_path / "x.jsonl", rows), tokenizer, flag_values)
    assert features.labels == ("a", "b")
    batches = source(features, flag_values)
    assert all(length <= 30 for _, length in batches.shapes)
    assert 1 < len(batches.shapes) <= 3
    assert len(source(features, flags("--length_buckets=1")).shapes) == 1
    batch = batches.batch(0)
    assert batch["label"].tolist() == [i % 2 for i in batch["sample_id"]]


def test_what_is_lost_is_said_of_its_own_kind(tmp_path, tokenizer):
    """Pairs of entities among pairs, relations among relations, texts among texts, else records."""
    spans = [{"start": i, "end": i + 1, "label": "X"} for i in (0, 2, 40)]
    relations = [{"head": a, "tail": b, "label": "x"} for a, b in ((0, 1), (2, 1))]
    record = {"text": "a b" + " c" * 20, "entities": spans, "relations": relations}
    kinds = {
        "relation_extraction": (
            [record] * 2,
            [
                # Of six pairs five are looked at; those with the entity at the end are beyond it.
                "10 of 10 pairs in 2 samples cut to --max_length=20 tokens",
                "2 of 4 relations in 2 samples left out: a relation between more than --max_pairs, "
                f"or of what overlaps, first {tmp_path}/x.jsonl:1",
                "6 of 10 pairs in 2 samples left out: a pair beyond --max_length, "
                f"first {tmp_path}/x.jsonl:1",
            ],
        ),
        "embedding": (
            [
                {"query": "c " * 30, "positive": "x", "negatives": ["y", "c " * 30]},
                {"query": "q", "positive": "x"},
            ],
            ["2 of 6 texts in 2 samples cut to --max_length=20 tokens"],
        ),
        "classification": (
            [{"text": text, "label": label} for text, label in (("c " * 30, "a"), ("q", "b"))],
            ["1 of 2 samples cut to --max_length=20 tokens"],
        ),
    }
    for task, (rows, expected) in kinds.items():
        given = flags("--max_length=20", "--max_pairs=5")
        features = load(task, write(tmp_path / "x.jsonl", rows), tokenizer, given)
        assert data.notes(features, f"{len(rows)} samples", given) == expected


def test_labels_come_from_the_flag_then_the_model_then_the_data(tmp_path, tokenizer):
    path = write(tmp_path / "x.jsonl", [{"text": "x", "label": label} for label in "ba"])
    given = flags("--labels=c,b,a")
    for labels in ((), ("x", "y")):
        assert load("classification", path, tokenizer, given, labels).labels == ("c", "b", "a")
    assert load("classification", path, tokenizer, flags(), ("b", "a")).labels == ("b", "a")
    assert load("classification", path, tokenizer, flags()).labels == ("a", "b")
    with pytest.raises(ValueError, match=r"x\.jsonl:1: unknown label 'b'; known are a, c"):
        load("classification", path, tokenizer, flags(), ("a", "c"))


SPANS = [{"start": 0, "end": 3, "label": "CAT"}, {"start": 4, "end": 7, "label": "CAT"}]
UNSEEN = {
    "classification": (
        {}, [{"text": "x", "label": label} for label in "ab"],
        [{"text": "x", "label": "c"}, {"text": "y", "label": "d"}], "c, d", "a, b",
    ),
    "classification of several": (
        {"problem_type": "multi_label_classification"},
        [{"text": "x", "label": label} for label in (["a"], ["a", "b"], [])],
        [{"text": "x", "label": ["a", "c"]}], "c", "a, b",
    ),
    "tagged words": (
        {}, [{"tokens": ["The", "cat"], "tags": ["O", "B-CAT"]}],
        [{"tokens": ["The", "dog"], "tags": ["O", "B-DOG"]}], "B-DOG", "O, B-CAT, I-CAT",
    ),
    "spans": (
        {}, [{"text": "The cat sat", "entities": SPANS[1:]}],
        [{"text": "The dog sat", "entities": [{"start": 4, "end": 7, "label": "DOG"}]}],
        "B-DOG", "O, B-CAT, I-CAT",
    ),
    "relations": (
        {}, [{"text": "The cat", "entities": SPANS,
              "relations": [{"head": 0, "tail": 1, "label": "is"}]}],
        [{"text": "The cat", "entities": SPANS,
          "relations": [{"head": 0, "tail": 1, "label": "eats"}]}], "eats", "none, is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSEEN)
def test_labels_that_training_has_not_seen_are_left_out_of_an_evaluation(tmp_path, tokenizer, kind):
    task = {"tagged words": "token_classification", "spans": "token_classification",
            "relations": "relation_extraction"}.get(kind, "classification")  # fmt: skip
    options, known, others, unseen, names = UNSEEN[kind]
    given = flags("--max_length=30", *(f"--{name}={value}" for name, value in options.items()))

    def records(rows):
        return data.load_records(task, write(tmp_path / "x.jsonl", rows), given)

    config = data.configure(task, CONFIG, given)
    labels = data.make_features(task, records(known), tokenizer, given, config).labels
    config = config.replace(id2label=labels)
    rows = [others[0], *known, *others[1:]]
    features = data.make_features(task, records(rows), tokenizer, given, config, seen_only=True)
    alone = data.make_features(task, records(known), tokenizer, given, config)
    np.testing.assert_array_equal(features.values, alone.values)
    assert [record["where"] for record in features.records] == [
        f"{tmp_path / 'x.jsonl'}:{i + 2}" for i in range(len(known))
    ]
    assert data.notes(features, f"{len(rows)} samples", given) == [
        f"{len(others)} of {len(rows)} samples left out: a label that training has not seen "
        f"({unseen}), first {tmp_path}/x.jsonl:1"
    ]
    # To learn from them, they have to be known.
    with pytest.raises(ValueError, match=r"x\.jsonl:1: unknown label"):
        data.make_features(task, records(rows), tokenizer, given, config)
    message = rf"x\.jsonl:1: nothing is left of .* not seen \({unseen}\); known are {names}$"
    with pytest.raises(ValueError, match=message):
        data.make_features(task, records(others), tokenizer, given, config, seen_only=True)


@pytest.mark.parametrize("packing", ["concat", "best_fit", "none"])
def test_texts_from_files_to_packed_batches(tmp_path, tokenizer, packing):
    texts = ["The cat sat on the mat. " * n for n in (1, 30, 2, 3)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    flag_values = flags("--max_length=16", f"--packing={packing}")
    features = load("causal_lm", [str(tmp_path)], tokenizer, flag_values)
    batches = source(features, flag_values, shuffle=False)
    assert batches.shapes == [(4, 16)]
    targets = np.concatenate(
        [
            batch["token_ids"][batch["loss_mask"] > 0]
            for batch in map(batches.batch, range(batches.steps_per_epoch))
        ]
    )
    # All text but the first token of each document is predicted once, and its end.
    assert len(targets) == features.is_target.sum()
    first = [tokenizer.tokenize(text).to_list()[0][0] for text in texts]
    sizes = [len(tokenizer.detokenize([[token]]).numpy()[0]) for token in first]
    assert batches.num_bytes == sum(map(len, texts)) - sum(sizes)
    assert (targets == tokenizer.eos_token_id).sum() == len(texts)


def test_lines_of_a_text_file_are_documents_when_asked(tmp_path, tokenizer):
    path = tmp_path / "x.txt"
    path.write_text("The cat\n\nsat on\nthe mat")
    for unit, count in (("file", 1), ("paragraph", 2), ("line", 3)):
        features = load("causal_lm", [str(path)], tokenizer, flags(f"--text_unit={unit}"))
        assert len(features.row_splits) - 1 == count


def test_prompts_and_chats(tmp_path, tokenizer):
    path = write(tmp_path / "p.jsonl", [{"q": "The cat", "a": " sat", "text": "no"}] * 5)
    flag_values = flags("--prompt_column=q", "--completion_column=a", "--max_length=64")
    features = load("causal_lm", path, tokenizer, flag_values)
    said = tokenizer.detokenize([features.values[features.is_target]]).numpy()[0]
    assert said == b" sat<|end|>" * 5

    turns = [{"role": "user", "content": "The"}, {"role": "assistant", "content": "mat"}]
    path = write(tmp_path / "c.jsonl", [{"talk": turns}])
    flag_values = flags("--messages_column=talk", "--max_length=64")
    features = load("chat", path, tokenizer, flag_values)
    said = tokenizer.detokenize([features.values[features.is_target]]).numpy()[0]
    assert said.startswith(b"mat<|end|>")


def test_plain_texts_and_prompts_do_not_mix(tmp_path, tokenizer):
    path = write(tmp_path / "x.jsonl", [{"prompt": "a", "completion": "b"}, {"text": "c"}])
    with pytest.raises(ValueError, match="plain texts as well as prompts"):
        load("causal_lm", path, tokenizer, flags())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "classification",
            r"x\.jsonl:1: no column 'text' and 'label'; "
            "there is 'body'.*--text_c",
        ),
        ("causal_lm", r"x\.jsonl:1: no column 'prompt' and 'completion' or 'text'"),
        ("chat", r"x\.jsonl:1: no column 'messages'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, task, message):
    path = write(tmp_path / "x.jsonl", [{"body": "a"}])
    with pytest.raises(ValueError, match=message):
        data.load_records(task, path, flags())


def test_held_out_share_is_by_content(tmp_path):
    rows = [{"prompt": f"p{i % 50}", "completion": "c"} for i in range(100)]
    records = data.load_records("causal_lm", write(tmp_path / "x.jsonl", rows), flags())
    train, held_out = data.hold_out("causal_lm", records, 0.2)
    assert len(train) + len(held_out) == 100
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in held_out}
    with pytest.raises(ValueError, match=r"eval_fraction=0\.2: of 1 records"):
        data.hold_out("causal_lm", records[:1], 0.2)
