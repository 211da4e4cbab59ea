"""What continuous batching costs and gains, beside its peers, in one run.

    python -m benchmarks.continuous --continuous=models/a --none=models/b

Questions about an export with continuous batching, served by the local server:

- Cold start: the time from the server's start until it answers, warm-up requests included.
- Throughput: tokens/s of --batch clients that ask for a text each, beside static batches of that
  many texts: ours (an export with --batching=none, one request with all prompts) and Hugging Face
  torch's `generate`. All texts are of the same length, so a static batch wastes nothing.
- A long prompt in the middle: the time between steps, which is the time between a client's tokens,
  while a prompt of 512 words comes in, beside its median. Seen from outside, by the counters of the
  signature `stats`.
- The first token of a prompt of 64 words, beside the products of its prefill run alone, those of
  attention among them: by the matrices in panels, as the export has them where oneDNN is on, and by
  whole matrices, which suit so many rows better and a single one worse.
- The first token of a prompt of 512 words, and of one that begins alike and has one word more.

Weights of torch are random (the speed does not depend on them). Client and server share the
machine.
"""

import concurrent.futures
import contextlib
import itertools
import os
import statistics
import threading
import time

import numpy as np
from absl import flags

from benchmarks import decode
from benchmarks.load import Range, prompt_of
from benchmarks.server import NAME, Server
from export import cli
from export.client import Client
from trainers.files import write_json

WORDS, TOKENS = 64, 48  # of a text, prompt and answer
LONG = 512  # words of the long prompt
PAUSE = 0.002  # seconds between two looks at the counters


def texts(rng, number, words=WORDS):
    """Prompts of so many words; a word of them is one token, but for the first."""
    return [prompt_of(rng, Range(words, words)) for _ in range(number)]


def throughput(continuous, none, torch, batch, rounds):
    """{peer: [tokens/s of each round]}; the peers take turns."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, decode.SHAPE["vocab"], (batch, WORDS))

    def each_alone():
        with concurrent.futures.ThreadPoolExecutor(batch) as pool:
            prompts = [texts(rng, 3) for _ in range(batch)]
            answers = pool.map(lambda some: [ask(continuous, [p], TOKENS) for p in some], prompts)
            return sum(itertools.chain.from_iterable(answers))

    def at_once():
        return sum(ask(none, texts(rng, batch), TOKENS) for _ in range(3))

    def by_torch():
        for _ in range(3):
            torch(ids, TOKENS)
        return 3 * batch * TOKENS

    peers = {"continuous": each_alone, "static": at_once, "torch": by_torch}
    found = {name: [] for name in peers}
    for i in range(rounds + 1):  # the first to warm up
        for name, run in peers.items():
            start = time.perf_counter()
            tokens = run()
            if i:
                found[name].append(tokens / (time.perf_counter() - start))
    return found


def ask(client, prompts, tokens):
    """Tokens that a request brings."""
    answers = client.generate(prompts, max_new_tokens=tokens, temperature=0.0)
    return sum(answer.num_tokens for answer in answers)


class Steps(threading.Thread):
    """Looks at the counters of a model all the time.

    Attributes:
      seen: [(seconds, steps of all time)], one for each look that found another number.
    """

    def __init__(self, client):
        super().__init__(daemon=True)
        self._client, self._over = client, threading.Event()
        self.seen = []

    def run(self):
        while not self._over.wait(PAUSE):
            steps = self._client.predict({}, "stats")["steps"][0]
            if not self.seen or steps != self.seen[-1][1]:
                self.seen.append((time.perf_counter(), steps))

    def end(self):
        self._over.set()
        self.join()

    def gaps(self, begin, end):
        """Seconds of each step seen to end within these times; two missed at once share theirs."""
        return [
            (b[0] - a[0]) / (b[1] - a[1])
            for a, b in itertools.pairwise(self.seen)
            if begin <= b[0] <= end
        ]


def long_prompt(client, batch, rounds):
    """[{median and longest gap in seconds, seconds of the long request}] of each round."""
    rng, over = np.random.default_rng(1), threading.Event()

    def go_on():
        own = np.random.default_rng(threading.get_ident())
        while not over.is_set():
            ask(client, texts(own, 1, 8), 256)

    steps = Steps(client)
    found = []
    with concurrent.futures.ThreadPoolExecutor(batch - 1) as pool:
        others = [pool.submit(go_on) for _ in range(batch - 1)]
        steps.start()
        try:
            for i in range(rounds + 1):
                time.sleep(2.0)
                quiet, start = time.perf_counter() - 1.5, time.perf_counter()
                ask(client, texts(rng, 1, LONG), 1)
                end = time.perf_counter()
                median = statistics.median(steps.gaps(quiet, start))
                if i:
                    longest = max(steps.gaps(start, end))
                    found.append({"median": median, "longest": longest, "request": end - start})
        finally:
            over.set()
            steps.end()
    for other in others:
        other.result()
    return found


def first_token(client, rounds):
    """{"request" and each layout of the matrices: [seconds], "tokens": of the prompt}

    All take turns. Of two runs in a row the second counts: the first finds the caches of the CPU as
    the one before it left them, who shares this machine here and would not elsewhere.
    """
    rng = np.random.default_rng(2)
    turns = {"request": lambda: ask(client, texts(rng, 1), 1)} | {
        layout: prefill_products(layout) for layout in ("panels", "plain")
    }
    found = {name: [] for name in turns}
    before = client.predict({}, "stats")["prompt_tokens"][0]
    for i in range(rounds + 2):
        for name, run in turns.items():
            run()
            start = time.perf_counter()
            run()
            if i > 1:
                found[name].append(time.perf_counter() - start)
    after = client.predict({}, "stats")["prompt_tokens"][0]
    return found | {"tokens": (after - before) / (2 * (rounds + 2))}


def shared_beginning(client, rounds):
    """[{seconds until the first token of a new prompt, and of one that goes on with it}]"""
    rng, found = np.random.default_rng(3), []
    for _ in range(rounds):
        (prompt,) = texts(rng, 1, LONG)
        start = time.perf_counter()
        ask(client, [prompt], 1)
        middle = time.perf_counter()
        ask(client, [prompt + " and"], 1)
        found.append({"new": middle - start, "again": time.perf_counter() - middle})
    return found


def prefill_products(layout):
    """A function that multiplies what a prompt of WORDS tokens needs, and nothing else.

    Args:
      layout: of the matrices, see `layers.split_columns`.
    """
    import tensorflow as tf

    from gpt_keras.layers import matmul, split_columns

    width, ff, heads = decode.SHAPE["width"], decode.SHAPE["ff"], decode.SHAPE["heads"]
    layers, K, h = decode.SHAPE["layers"], decode.SHAPE["kv_heads"], width // heads
    sizes = [(width, (heads + 2 * K) * h), (heads * h, width),
             (width, 2 * ff), (ff, width)] * layers  # fmt: skip
    sizes.append((width, decode.SHAPE["vocab"]))

    def variable(size):
        matrix = tf.random.normal(size)
        return tf.Variable(matrix if layout == "plain" else split_columns(matrix, layout))

    matrices = [variable(size) for size in sizes]

    q, weights = (tf.random.normal([layers, K, heads // K * WORDS, n]) for n in (h, WORDS))
    keys, values = (tf.random.normal([layers, K, WORDS, h]) for _ in range(2))

    @tf.function
    def run(x):
        found = []
        for i in range(layers):
            scores = tf.matmul(q[i], keys[i], transpose_b=True)  # (K, G*T, T)
            found += [tf.reduce_max(scores[0]), tf.reduce_max(tf.matmul(weights[i], values[i])[0])]
        for matrix, (D, F) in zip(matrices, sizes, strict=True):
            rows = x[:1] if matrix is matrices[-1] else x  # the last token's alone
            found.append(tf.reduce_max(matmul(rows[:, :D], matrix, F)[0]))
        return tf.stack(found)

    x = tf.random.normal([WORDS, max(D for D, _ in sizes)])
    return lambda: run(x).numpy()


def main():
    values = flags.FLAGS
    if values.batch < 2:
        raise cli.UsageError(f"--batch={values.batch}: expected at least 2")
    for name in ("continuous", "none"):
        if not values[name].value:
            raise cli.UsageError(f"--{name}: expected a folder of versions")
    torch = decode.hf_torch()
    with contextlib.ExitStack() as stack:
        clients, ready = {}, {}
        for name in ("continuous", "none"):
            start = time.perf_counter()
            server = stack.enter_context(
                Server(values[name].value, grpc_max_threads=values.batch + 8)
            )
            clients[name] = stack.enter_context(Client(server.address, NAME))
            while clients[name].status()[0].state != "AVAILABLE":
                time.sleep(0.1)
            ready[name] = time.perf_counter() - start
        client = clients["continuous"]
        rates = throughput(client, clients["none"], torch, values.batch, values.rounds)
        gaps = long_prompt(client, values.batch, values.rounds)
        first = first_token(client, 10 * values.rounds)
        beginnings = shared_beginning(client, values.rounds)

    ratios = {
        name: statistics.median(
            a / b for a, b in zip(rates["continuous"], rates[name], strict=True)
        )
        for name in ("static", "torch")
    }
    for name, seconds in ready.items():
        print(f"{name}: ready after {seconds:.1f} s")
    for name, figures in rates.items():
        print(f"{values.batch} texts, {name}: {statistics.median(figures):.1f} tokens/s")
    print(f"continuous / static: {ratios['static']:.2f}, continuous / torch: {ratios['torch']:.2f}")
    for gap in gaps:
        longest, median = (1000 * gap[name] for name in ("longest", "median"))
        print(f"a prompt of {LONG} words beside {values.batch - 1} texts: "
              f"longest step {longest:.0f} ms, median before {median:.0f} ms: "
              f"{longest / median:.1f} x; answered in {gap['request']:.2f} s")  # fmt: skip
    request, panels, plain = (
        1000 * statistics.median(first[name]) for name in ("request", "panels", "plain")
    )
    print(f"first token of {first['tokens']:.0f} tokens: {request:.1f} ms; its products alone "
          f"{panels:.1f} ms in panels, as the export has them: {request / panels:.2f} x; "
          f"{plain:.1f} ms as whole matrices: {request / plain:.2f} x")  # fmt: skip
    new, again = (
        1000 * statistics.median(b[name] for b in beginnings) for name in ("new", "again")
    )
    print(f"first token of {LONG} words: {new:.0f} ms; the same and one word more: {again:.0f} ms")
    if values.output:
        report = {"batch": values.batch, "ready_s": ready, "tokens_per_s": rates, "ratio": ratios,
                  "long_prompt": gaps, "first_token": first,
                  "shared_beginning": beginnings}  # fmt: skip
        write_json(values.output, report)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("continuous", None, "Folder of versions with continuous batching.")
    flags.DEFINE_string("none", None, "Folder of versions exported with --batching=none.")
    flags.DEFINE_integer("batch", 8, "Texts at once.")
    flags.DEFINE_integer("rounds", 3, "Measurements of each.", lower_bound=1)
    flags.DEFINE_string("output", "", "JSON file for the figures.")
    cli.run(main)
