import itertools
import multiprocessing

import numpy as np
import pytest

from gpt_keras import tokenizers
from trainers.chunks import Chunk, _Worker, tokenize_chunks
from trainers.preparation import Position


def test_a_process_that_was_killed_is_told(model_dir):
    chunks = (Chunk(["the cat"] * n, [], {}, Position()) for n in itertools.count(1))
    results = tokenize_chunks(chunks, str(model_dir), 1, 0.0, np.dtype(np.uint16))
    chunk, documents, num_empty = next(results)
    assert (chunk.texts, len(documents["train"].lengths), num_empty) == (["the cat"], 1, 0)
    (process,) = multiprocessing.active_children()
    process.kill()
    with pytest.raises(ValueError, match="a process that tokenizes was killed, perhaps for lack"):
        list(results)


def test_documents_have_the_special_tokens_of_the_tokenizer(tmp_path):
    trained = tokenizers.train_byte_level_bpe(["the cat sat on the mat"] * 3, 300)
    made, model = [], trained.spec.model
    for begins in (False, True):
        tokenizers.ByteLevelBPE.from_vocab_and_merges(
            model.vocab, model.merges, ["<|endoftext|>"], bos_token_id=0, eos_token_id=0,
            add_bos_token=begins,
        ).save(tmp_path)  # fmt: skip
        worker = _Worker(str(tmp_path), 0.0, "uint16")
        documents, num_empty = worker.tokenize(["the cat", "", "a mat"])
        assert num_empty == 1
        made.append(documents["train"])
    texts = trained.tokenize(["the cat", "a mat"]).to_list()
    for documents, before in zip(made, ([], [0]), strict=True):
        rows = [[*before, *row, 0] for row in texts]
        assert documents.tokens.tolist() == list(itertools.chain(*rows))
        assert documents.lengths.tolist() == [len(row) for row in rows]
    first = sum(len(trained.token_bytes.numpy()[row[0]]) for row in texts)
    assert made[1].target_bytes == len("the cata mat") == made[0].target_bytes + first
