"""Minutes of good and bad requests, and whether the server is as sound afterwards as before.

    python -m benchmarks.soak --model_base_path=models/smollm2 --model=runs/smollm2

A server is started for the model; first it answers a few prompts one at a time. Then clients mix,
by chance: these prompts again, in requests of one to three rows; the same with deadlines that are
mostly too short; the same given up by the client; prompts longer than the context; bad options. In
the end every slot has to come free, every good request must have had the same answer word for word,
every bad one its error, and the server's resident memory must not have grown since the warm-up.

Where two tokens are all but equally good, rounding decides, and it differs with the number of texts
in a step: with --model an answer that differs counts as right if each of its tokens was the model's
best or as good as that (`export.verification`).

Exit status 0: all is well. 1: something is not; the last line says what.
"""

import collections
import concurrent.futures
import dataclasses
import random
import statistics
import threading
import time

import grpc
import numpy as np
from absl import flags

from benchmarks.load import Range, prompt_of
from benchmarks.server import NAME, Server
from export import cli, protocol, tensors
from export.client import Client, Generation, ServerError
from trainers.files import write_json

KINDS = {"good": 50, "deadline": 20, "cancel": 10, "too long": 10, "bad option": 10}  # shares
# What may become of a request of each kind.
FATES = {
    "good": {"OK"},
    "deadline": {"OK", "DEADLINE_EXCEEDED"},
    "cancel": {"OK", "CANCELLED"},
    "too long": {"INVALID_ARGUMENT"},
    "bad option": {"INVALID_ARGUMENT"},
}
BAD = (
    {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 2.0}, {"max_new_tokens": 0},
    {"max_new_tokens": [1, 2, 3, 4, 5]}, {"temperature": float("nan")},
)  # fmt: skip
TOO_LONG = "word " * 20_000  # longer than any --max_context that a CPU is asked for
PATIENCE = 300.0  # seconds that a good request may take


@dataclasses.dataclass
class Findings:
    """What has happened so far. Add under the lock.

    Attributes:
      counts: (kind, code) -> requests.
      odd: what should not have happened, in words.
      differing: (prompt, max_new_tokens, answer) that are not what the server said at first.
    """

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    odd: list[str] = dataclasses.field(default_factory=list)
    differing: set = dataclasses.field(default_factory=set)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, kind, code, message=""):
        """One more request, with what the server said."""
        with self.lock:
            self.counts[kind, code] += 1
            if code not in FATES[kind]:
                self.odd.append(f"{kind}: {code}: {message}")


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt, and what the server says to it when it has nothing else to do."""

    prompt: str
    max_new_tokens: int
    answer: Generation


def alone(client, n, prompt_words, answer_tokens, seed) -> list[Text]:
    """`n` prompts, answered one at a time."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(n):
        prompt, tokens = prompt_of(rng, prompt_words), answer_tokens.draw(rng)
        texts.append(Text(prompt, tokens, *ask(client, [(prompt, tokens)])))
    return texts


def ask(client, requests, timeout=PATIENCE) -> list[Generation]:
    """Greedy answers to (prompt, max_new_tokens), in one request."""
    prompts, tokens = zip(*requests, strict=True)
    return client.generate(prompts, max_new_tokens=tokens, temperature=0.0, timeout=timeout)


class Visitor:
    """A client that asks one request after the other, by chance of all kinds."""

    def __init__(self, client, stub, texts, findings, longest_deadline, seed):
        self._client, self._stub, self._texts, self._findings = client, stub, texts, findings
        self._longest_deadline, self._random = longest_deadline, random.Random(seed)

    def run(self, until):
        """Asks until then, on the clock of `time.monotonic`."""
        while time.monotonic() < until:
            (kind,) = self._random.choices(list(KINDS), KINDS.values())
            try:
                getattr(self, "_" + kind.replace(" ", "_"))()
            except ServerError as error:
                self._findings.add(kind, error.code.name, error.message)
            else:
                self._findings.add(kind, "OK")

    def _good(self, timeout=PATIENCE):
        texts = self._random.choices(self._texts, k=self._random.randint(1, 3))
        answers = ask(self._client, [(t.prompt, t.max_new_tokens) for t in texts], timeout)
        for text, answer in zip(texts, answers, strict=True):
            if answer.text_bytes != text.answer.text_bytes:
                with self._findings.lock:
                    self._findings.differing.add((text.prompt, text.max_new_tokens, answer))

    def _deadline(self):
        self._good(self._random.uniform(0.001, self._longest_deadline))

    def _cancel(self):
        text = self._random.choice(self._texts)
        request = protocol.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = NAME, "generate"
        prompts, tokens = np.array([text.prompt.encode()], object), [text.max_new_tokens]
        request.inputs["prompts"].CopyFrom(tensors.to_proto(prompts))
        request.inputs["max_new_tokens"].CopyFrom(tensors.to_proto(np.array(tokens, "int32")))
        call = self._stub.Predict.future(request, timeout=PATIENCE)
        time.sleep(self._random.uniform(0.001, self._longest_deadline))
        call.cancel()
        try:
            call.result()
        except grpc.FutureCancelledError:
            raise ServerError(grpc.StatusCode.CANCELLED, "by us") from None
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details()) from None

    def _too_long(self):
        self._client.generate([TOO_LONG], timeout=PATIENCE)

    def _bad_option(self):
        text = self._random.choice(self._texts)
        option = self._random.choice(BAD)
        self._client.generate([text.prompt] * 2, timeout=PATIENCE, **option)


def soak(server, visitors, seconds) -> list[float]:
    """Lets visitors visit; the server's resident memory in MB, second by second."""
    until, memory = time.monotonic() + seconds, []
    with concurrent.futures.ThreadPoolExecutor(len(visitors)) as pool:
        futures = [pool.submit(visitor.run, until) for visitor in visitors]
        while time.monotonic() < until and server.running():
            memory.append(server.resident() / 1e6)
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        for future in futures:
            future.result()
    if not server.running():
        raise ValueError(f"the server ended; it said: {server.log()[-500:]}")
    return memory


def slots_in_use(client, texts, patience=60.0) -> int:
    """Slots that do not come free within `patience` seconds, though others ask for them."""
    until = time.monotonic() + patience
    while (taken := _stats(client)["slots_in_use"]) and time.monotonic() < until:
        ask(client, [(t.prompt, t.max_new_tokens) for t in texts])
    return taken


def _stats(client):
    return {name: value[0] for name, value in client.predict({}, "stats").items()}


def is_as_good(model, prompt, max_new_tokens, answer: Generation) -> bool:
    """Whether a greedy answer is what a CausalLM says, but for tokens that are equally good."""
    from export.verification import LOGIT_TOLERANCE, is_greedy

    begin = model.tokenizer.encode([prompt]).to_list()[0]
    said, n = answer.text_bytes, answer.num_tokens
    open_ends = [[]]  # answers so far whose text begins like this one
    while open_ends:
        tokens = open_ends.pop()
        text = model.tokenizer.detokenize([tokens], skip_special_tokens=True).numpy()[0]
        if not said.startswith(text):
            continue
        if len(tokens) == n:
            if text == said and is_greedy(model, begin, tokens, max_new_tokens):
                return True
            continue
        logits = model(np.array([begin + tokens], "int32"))[0, -1].numpy()
        best = np.flatnonzero(logits.max() - logits <= LOGIT_TOLERANCE)
        open_ends += [[*tokens, int(token)] for token in best]
    return False


def wrong(differing, folder) -> list[str]:
    """In words, those of the answers that differ which are not as good either."""
    model = None
    if folder and differing:
        from export import saved_model

        model = saved_model.load(folder)
    return [
        f"good: wrong answer to {prompt!r}: {answer.text!r}"
        for prompt, tokens, answer in sorted(differing, key=str)
        if model is None or not is_as_good(model, prompt, tokens, answer)
    ]


def table(counts) -> str:
    """For people. counts: see `Findings`."""
    codes = sorted({code for _, code in counts}, key=lambda code: (code != "OK", code))
    width = max(map(len, codes), default=0) + 2
    lines = [f"{'requests':12}" + "".join(f"{code:>{width}}" for code in codes)]
    for kind in KINDS:
        lines.append(f"{kind:12}" + "".join(f"{counts[kind, code]:{width}d}" for code in codes))
    return "\n".join(lines)


def main():
    values = flags.FLAGS
    words = Range.parse("prompt_words", values.prompt_words)
    tokens = Range.parse("answer_tokens", values.answer_tokens)
    findings = Findings()
    # Requests that their clients gave up run on; they are not to keep others out.
    with (
        Server(values.model_base_path, grpc_max_threads=16 * values.clients) as server,
        Client(server.address, NAME) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = protocol.PredictionServiceStub(channel)
        texts = alone(client, values.texts, words, tokens, values.seed)
        visitors = [
            Visitor(client, stub, texts, findings, values.longest_deadline, f"{values.seed} {i}")
            for i in range(values.clients)
        ]
        before = soak(server, visitors, 60 * values.warmup_minutes)
        begin = _stats(client)
        memory = soak(server, visitors, 60 * values.minutes)
        end = _stats(client)
        taken = slots_in_use(client, texts)
    lies = wrong(findings.differing, values.model)
    # Medians of half a minute: single readings hold whatever a few requests need at the time.
    first, last = (statistics.median(series[-30:]) for series in (before, memory))
    problems = [f"{taken} slots did not come free"] if taken else []
    if last > first * (1 + values.max_growth):
        problems.append(f"memory grew from {first:.1f} to {last:.1f} MB")
    problems += findings.odd + lies
    steps = {name: end[name] - begin[name] for name in ("steps", "tokens", "prompt_tokens")}
    print(table(findings.counts))
    print(f"memory       {first:.1f} MB after the warm-up, {last:.1f} MB at the end "
          f"({100 * (last / first - 1):+.2f} %)")  # fmt: skip
    print(f"shared       {steps['tokens']} tokens of answers in {steps['steps']} steps")
    print(f"differing    {len(findings.differing)} answers, {len(lies)} of them wrong")
    if values.output:
        counts = [{"kind": k, "code": c, "requests": n} for (k, c), n in findings.counts.items()]
        report = {"counts": counts, "slots_in_use": taken, "memory_mb": {"warmup": before,
                  "soak": memory, "first": first, "last": last}, "stats": steps,
                  "differing": len(findings.differing), "problems": problems}  # fmt: skip
        write_json(values.output, report)
    if problems:
        raise ValueError(f"{len(problems)} problems, the first: " + " ".join(problems[0].split()))
    print("all is well")


if __name__ == "__main__":
    flags.DEFINE_string("model_base_path", None, "Folder of versions to start a server for.")
    flags.DEFINE_string("model", None, "The model it was exported from, to judge differences by.")
    flags.DEFINE_float("minutes", 10, "Minutes of requests.", lower_bound=0.01)
    flags.DEFINE_float("warmup_minutes", 2, "Minutes of requests before.", lower_bound=0.01)
    flags.DEFINE_integer("clients", 16, "Clients at once.", lower_bound=1)
    flags.DEFINE_integer("texts", 12, "Prompts of the good requests.", lower_bound=1)
    flags.DEFINE_string("prompt_words", "4-48", "Words of a prompt: a number or a range.")
    flags.DEFINE_string("answer_tokens", "4-48", "Tokens asked for: a number or a range.")
    flags.DEFINE_float(
        "longest_deadline", 1.0, "Seconds of the longest of the short deadlines.", lower_bound=0.002
    )
    flags.DEFINE_float("max_growth", 0.01, "Share by which memory may grow.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of prompts and kinds.", lower_bound=0)
    flags.DEFINE_string("output", "", "JSON file for what was found.")
    flags.mark_flag_as_required("model_base_path")
    cli.run(main)
