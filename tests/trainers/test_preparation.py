import contextlib
import json
import os

import numpy as np
import pytest

from gpt_keras import tokenizers
from trainers import shards
from trainers.args import UsageError
from trainers.preparation import Documents, Position, Preparation

INPUTS = [{"path": f"{name}.txt", "bytes": 9, "mtime_ns": 1} for name in "ab"]
NOTHING = Documents(np.zeros(0, np.uint16), np.zeros(0, np.int64), 0)


@pytest.fixture
def begin(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(inputs=INPUTS, **settings):
            settings = {"text_column": "text", **settings}
            return stack.enter_context(Preparation(tmp_path / "out", settings, inputs))

        yield start


def add(preparation, tokens, position, split="train"):
    documents = {"train": NOTHING, "eval": NOTHING}
    documents[split] = Documents(np.array(tokens, np.uint16), np.array([len(tokens)]), 3)
    preparation.add(documents, [bytes([tokens[0]] * 16)], {"read": 1}, Position(*position))


def end(preparation):
    """As a kill does: what was added and not committed is gone, the lock is free."""
    preparation.__exit__()


def finish(preparation, model_dir):
    tokenizer = tokenizers.load(model_dir)
    preparation.save_tokenizer(tokenizer)
    preparation.finish(tokenizer)


def test_goes_on_after_the_last_shard_that_has_a_journal(begin, model_dir, tmp_path):
    first = begin()
    add(first, [5, 0], (0, 1))
    first.commit(np.uint16)
    add(first, [6, 0], (0, 2), "eval")
    first.commit(np.uint16)
    add(first, [7, 0], (1, 0))
    os.remove(tmp_path / "out.partial" / "journal-00001.json")  # killed before it was written
    end(first)

    second = begin()
    assert second.position == Position(0, 1)
    assert second.digests == {bytes([5] * 16)}
    assert second.counts["read"] == 1
    add(second, [8, 9, 0], (2, 0))
    second.commit(np.uint16)
    finish(second, model_dir)
    folder = shards.open_folder(tmp_path / "out")
    assert [s.tokens.tolist() for s in folder.shards("train")] == [[5, 0], [8, 9, 0]]
    assert folder.shards("eval") == []
    assert folder.manifest["documents"] == {"read": 2, "duplicate": 0, "empty": 0}
    assert not (tmp_path / "out.partial").exists()
    assert not any(name.startswith(("journal", "digests")) for name in os.listdir(folder.path))
    assert Preparation(folder.path, {"text_column": "text"}, INPUTS).finished


def test_one_process_at_a_time(begin):
    first = begin()
    with pytest.raises(UsageError, match="another process is at work there"):
        begin()
    end(first)
    begin()


def test_a_start_that_made_nothing_binds_to_nothing(begin, model_dir):
    first = begin(text_column="wrong")
    first.save_tokenizer(tokenizers.load(model_dir))
    end(first)
    second = begin()
    assert second.tokenizer_dir is None  # it may have come of other texts
    kept = second.save_tokenizer(tokenizers.load(model_dir))
    end(second)
    third = begin()
    assert third.tokenizer_dir == kept
    end(third)
    changed = [{**entry, "mtime_ns": 2} for entry in INPUTS]
    assert begin(changed).tokenizer_dir is None


def test_other_flags_are_refused_before_and_after_the_end(begin, model_dir):
    first = begin()
    add(first, [5, 0], (0, 1))
    first.commit(np.uint16)
    end(first)
    message = "--text_column=body differs from text, with which .*out{} was made; give the same"
    with pytest.raises(UsageError, match=message.format(".partial")):
        begin(text_column="body")
    preparation = begin()
    add(preparation, [5, 0], (1, 0))
    preparation.commit(np.uint16)
    finish(preparation, model_dir)
    with pytest.raises(UsageError, match=message.format("")):
        begin(text_column="body")
    with pytest.raises(UsageError, match="--train_data: not the files, or not of the sizes"):
        begin(INPUTS[:1])


def test_what_has_been_read_may_not_change_but_what_lies_ahead_may(begin):
    first = begin()
    add(first, [5, 0], (0, 3))
    first.commit(np.uint16)
    end(first)
    changed = [{**entry, "mtime_ns": 2} for entry in INPUTS]
    with pytest.raises(UsageError, match=r"--train_data: a\.txt has been read into"):
        begin([changed[0], INPUTS[1]])
    with pytest.raises(UsageError, match=r"--train_data: a\.txt has been read into"):
        begin([])
    assert begin([INPUTS[0], changed[1], *changed]).position == Position(0, 3)


def test_a_folder_of_something_else_is_left_alone(begin, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="is not an empty folder, and holds no shards"):
        begin()
    assert os.listdir(tmp_path) == ["out"]
    os.rename(tmp_path / "out", tmp_path / "out.partial")
    with pytest.raises(UsageError, match=r"out\.partial: is where the work would go on, but holds"):
        begin()
    assert os.listdir(tmp_path / "out.partial") == ["thesis.txt"]


def test_an_empty_folder_is_taken(begin, model_dir, tmp_path):
    (tmp_path / "out").mkdir()
    preparation = begin()
    add(preparation, [5, 0], (2, 0))
    preparation.commit(np.uint16)
    finish(preparation, model_dir)
    assert shards.is_folder(tmp_path / "out")


def test_manifest_does_not_tell_when_files_were_touched(begin, model_dir, tmp_path):
    preparation = begin()
    add(preparation, [5, 0], (2, 0))
    preparation.commit(np.uint16)
    finish(preparation, model_dir)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["preparation"]["inputs"] == {"a.txt": 9, "b.txt": 9}
