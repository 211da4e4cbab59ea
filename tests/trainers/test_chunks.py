import itertools
import multiprocessing

import numpy as np
import pytest

from trainers.chunks import Chunk, tokenize_chunks
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
