"""Tagged words out of the corpora's files."""

import json
import random
import re

from examples import generate_relations, prepare_tagging


def test_msra():
    lines = ["我 O", "在 O", "北 B-LOC", "京 E-LOC", "", "", "你 O"]
    assert list(prepare_tagging.msra(lines)) == [
        {"tokens": ["我", "在", "北", "京"], "tags": ["O", "O", "B-LOC", "E-LOC"]},
        {"tokens": ["你"], "tags": ["O"]},
    ]


def test_texts_without_tags(tmp_path):
    records = [{"tokens": ["我", "在"], "tags": ["O", "O"]}, {"tokens": ["你"], "tags": ["O"]}]
    prepare_tagging.write_texts(tmp_path, {"dev": records})
    assert (tmp_path / "dev.txt").read_text(encoding="utf-8") == "我在\n你\n"


def test_brown():
    text = "\n\n\tThe/at Fulton/np-tl 1/2/cd isn't/bez* ./.\n\n\t--/-- fw/fw-nn\n"
    assert list(prepare_tagging.brown(text)) == [
        {"tokens": ["The", "Fulton", "1/2", "isn't", "."], "tags": ["at", "np", "cd", "bez*", "."]},
        {"tokens": ["--", "fw"], "tags": ["--", "nn"]},
    ]


def test_parts_are_of_all_sentences():
    parts = [prepare_tagging.part_of({"tokens": ["a", str(i)]}) for i in range(1000)]
    assert 700 < parts.count("train") < 900
    assert min(parts.count("dev"), parts.count("test")) > 50


def test_generated_relations_are_between_the_names_they_say():
    names = {kind: some for kind, (_, some) in generate_relations.KINDS.items()}
    for seed in range(50):
        record = generate_relations.text_of(random.Random(seed), names)
        json.dumps(record)
        assert len(record["entities"]) == 4
        for entity in record["entities"]:
            covered = record["text"][entity["start"] : entity["end"]]
            kind = next(k for k, (label, _) in generate_relations.KINDS.items()
                        if label == entity["label"])  # fmt: skip
            assert covered in names[kind]
        (relation,) = record["relations"]
        head = record["entities"][relation["head"]]["label"]
        assert head == generate_relations.KINDS[generate_relations.HEADS[relation["label"]]][0]
        pairs = generate_relations.pairs_of(record)
        assert [pair["label"] for pair in pairs].count("none") == len(pairs) - 1 == 11
        assert all(len(re.findall("head(PER|LOC|ORG)", pair["text"])) == 1 for pair in pairs)
