"""Requests to a server of a language model as many clients send them, and what they tell of it."""

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
import time

import numpy as np

from export import cli
from export.client import ServerError

IN_FLIGHT = 256  # requests at once where they arrive by a rate; more are late
QUANTILES = (50, 95, 99)
COMMON = """
    the of and to in is that it was for on are as with his they at be this from have or by one
    had not but what all were when we there can an your which their said if do will each about
    how up out them then she many some so these would other into has more her two like him see
    time could no make than first been its who now people my made over did down only way find use
    water long little very after words called just where most know
"""
WORDS = COMMON.split()


@dataclasses.dataclass(frozen=True)
class Range:
    """Whole numbers, all as likely: "16" or "16-64"."""

    low: int
    high: int

    @classmethod
    def parse(cls, flag, text):
        low, _, high = text.partition("-")
        try:
            found = cls(int(low), int(high or low))
        except ValueError:
            found = None
        if found is None or not 1 <= found.low <= found.high:
            raise cli.UsageError(f"--{flag}={text}: expected a number above 0, or two like 16-64")
        return found

    def draw(self, rng):
        return int(rng.integers(self.low, self.high + 1))


@dataclasses.dataclass(frozen=True)
class Mix:
    """What requests are like.

    Attributes:
      prompt_words, answer_tokens: see `Range`; the answer ends sooner where the model ends it.
      first_token_share: of requests for a single token.
      seed: another one gives other requests.
    """

    prompt_words: Range
    answer_tokens: Range
    first_token_share: float
    seed: int

    def request(self, n):
        """(prompt, max_new_tokens, whether it asks for the first token alone) of the n-th."""
        rng = np.random.default_rng((self.seed, n))
        prompt, tokens = prompt_of(rng, self.prompt_words), self.answer_tokens.draw(rng)
        first = bool(rng.random() < self.first_token_share)
        return prompt, 1 if first else tokens, first


def prompt_of(rng, words: Range) -> str:
    """A prompt of common words."""
    return " ".join(rng.choice(WORDS, words.draw(rng)))


@dataclasses.dataclass(frozen=True)
class Record:
    """One request. Times in seconds since the round began.

    Attributes:
      due, end: when it was to be sent, when its answer was there.
      code: OK, or the error's.
      first: it asked for the first token alone.
      tokens: of its answer.
    """

    due: float
    end: float
    code: str
    first: bool
    tokens: int

    @property
    def latency(self):
        return self.end - self.due

    def share_within(self, begin, end):
        """How much of it lies between two times, 0 to 1."""
        within = min(self.end, end) - max(self.due, begin)
        return max(0.0, within) / max(self.latency, 1e-9)


def drive(client, mix: Mix, clients, rate, seconds) -> list[Record]:
    """Records of all requests that were due within `seconds`, once the last one is answered.

    Args:
      client: a `Client`.
      mix: of requests.
      clients: how many send one request after the other; or None for:
      rate: requests a second.
      seconds: of load.
    """
    numbers, lock = itertools.count(), threading.Lock()
    records, begun = [], time.monotonic()

    def now():
        return time.monotonic() - begun

    def send(n, due):
        prompt, tokens, first = mix.request(n)
        code, got = "OK", 0
        try:
            (answer,) = client.generate([prompt], max_new_tokens=tokens, temperature=0.0)
            got = answer.num_tokens
        except ServerError as error:
            code = error.code.name
        with lock:
            records.append(Record(due, now(), code, first, got))

    def one_after_the_other():
        while now() < seconds:
            with lock:
                n = next(numbers)
            send(n, now())

    with concurrent.futures.ThreadPoolExecutor(clients or IN_FLIGHT) as pool:
        if clients:
            futures = [pool.submit(one_after_the_other) for _ in range(clients)]
        else:
            gaps = np.random.default_rng(mix.seed).exponential(
                1 / rate, int(2 * rate * seconds) + 9
            )
            futures = []
            for n, due in enumerate(np.cumsum(gaps)):
                if due >= seconds:
                    break
                time.sleep(max(0.0, due - now()))
                futures.append(pool.submit(send, n, float(due)))
    for future in futures:
        future.result()
    return records


def figures(records: list[Record], begin, end) -> dict:
    """What a round says of the time from `begin` to `end`, in seconds since it began.

    Requests count if they were due then; to requests/s and tokens/s those that began before or
    ended after it add the share of them that lies within, as if their tokens came evenly.
    """
    answered = [r for r in records if r.code == "OK"]
    shares = [r.share_within(begin, end) for r in answered]
    tokens = sum(r.tokens * share for r, share in zip(answered, shares, strict=True))
    due = [r for r in records if begin <= r.due < end]
    good = [r for r in due if r.code == "OK"]
    whole = [r for r in good if not r.first]
    return {
        "requests_per_s": sum(shares) / (end - begin),
        "tokens_per_s": tokens / (end - begin),
        "latency_s": _quantiles([r.latency for r in whole]),
        "first_token_s": _quantiles([r.latency for r in good if r.first]),
        "token_s": _quantiles([r.latency / r.tokens for r in whole if r.tokens]),
        "requests": len(due),
        "errors": dict(collections.Counter(r.code for r in due if r.code != "OK")),
    }


def _quantiles(values):
    if not values:
        return None
    found = np.percentile(values, QUANTILES)
    return {f"p{q}": float(value) for q, value in zip(QUANTILES, found, strict=True)}
