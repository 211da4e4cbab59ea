"""Load on a server of a language model: many clients, throughput, latency.

    python -m benchmarks.serve_load --model_base_path=models/smollm2 --clients=1,8
    python -m benchmarks.serve_load --server=localhost:8500 --model_name=smollm2 --rate=2
    python -m benchmarks.serve_load --compare=continuous=models/a,none=models/b --clients=1,8

With --clients each client sends its next request when the last one is answered; with --rate they
arrive by chance, so many a second, whether or not the server keeps up (Poisson), and their latency
counts from when they were due. The n-th request is the same in every round and for every model.
Whoever is compared has a server of his own, all of them loaded; rounds go round robin, so that a
drift of the machine's speed hits all alike. Client and server share the machine.

Answers come whole, there is no streaming. So the time to the first token is the latency of requests
for a single token, a share of all (--first_token_share); they count for nothing else but
requests/s and tokens/s. The time of a token is a request's latency divided by its tokens.
"""

import collections
import contextlib
import statistics
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.load import IN_FLIGHT, Mix, Range, Record, drive, figures
from benchmarks.server import NAME, Server
from export import cli
from export.client import Client, ServerError
from trainers.files import write_json

START = 600.0  # seconds that the first request may take


def stats(client):
    """The model's counters; none where requests do not share steps."""
    try:
        return {name: value[0] for name, value in client.predict({}, "stats").items()}
    except (ServerError, ValueError):
        return {}


def measure(clients: dict, mix, load, warmup, seconds) -> tuple[dict, list[Record]]:
    """One round: (figures, records) for each name of `clients`; load: (clients, rate)."""
    found = {}
    for name, client in clients.items():
        before = stats(client)
        records = drive(client, mix, *load, warmup + seconds)
        result, after = figures(records, warmup, warmup + seconds), stats(client)
        if before and after["steps"] > before["steps"]:
            shared = (after["tokens"] - before["tokens"]) / (after["steps"] - before["steps"])
            result["texts_per_step"] = shared
        found[name] = (result, records)
    return found


def summary(rounds: list[dict]) -> dict:
    """Of several rounds' figures: medians, and the errors of all."""

    def median(values):
        values = [value for value in values if value is not None]
        if not values:
            return None
        if isinstance(values[0], dict):
            return {key: median([value[key] for value in values]) for key in values[0]}
        return statistics.median(values)

    names = [name for name in rounds[0] if name != "errors"]
    errors = sum((collections.Counter(r["errors"]) for r in rounds), collections.Counter())
    return {name: median([r.get(name) for r in rounds]) for name in names} | {"errors": errors}


def ratio(first: list[dict], other: list[dict], name) -> float | None:
    """Median of the rounds' ratios."""
    pairs = [(a[name], b[name]) for a, b in zip(first, other, strict=True)]
    found = [a / b for a, b in pairs if a and b]
    return statistics.median(found) if found else None


def table(results) -> str:
    """For people. results: {load: {name: [figures of each round]}}"""
    heads = ["load", "model", "requests/s", "tokens/s", "latency p50", "p95", "p99",
             "first token p50", "p95", "ms/token p50", "texts/step", "errors"]  # fmt: skip
    rows = [heads]
    for load, by_name in results.items():
        for name, rounds in by_name.items():
            found = summary(rounds)
            errors = " ".join(f"{code} {n}" for code, n in found["errors"].items())
            rows.append([
                load, name, _text(found["requests_per_s"]), _text(found["tokens_per_s"], 1),
                *(_text(found["latency_s"], 2, q) for q in ("p50", "p95", "p99")),
                *(_text(found["first_token_s"], 2, q) for q in ("p50", "p95")),
                _text(found["token_s"], 1, "p50", 1000), _text(found.get("texts_per_step"), 1),
                errors or "none",
            ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _text(value, digits=2, key=None, factor=1):
    value = value[key] if key and value is not None else value
    return "-" if value is None else f"{factor * value:.{digits}f}"


def ratios(results) -> dict:
    """{load: {"A / B": tokens/s of the first over each other's}}"""
    found = {}
    for load, by_name in results.items():
        (first, rounds), *others = by_name.items()
        found[load] = {
            f"{first} / {name}": ratio(rounds, other, "tokens_per_s") for name, other in others
        }
    return found


def picture(path, records, results) -> None:
    """Writes a PNG: how many requests took how long, and tokens/s.

    Args:
      path: of the file.
      records: {load: {name: [Record]}}.
      results: see `table`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for load, by_name in records.items():
        for name, found in by_name.items():
            times = sorted(r.latency for r in found if r.code == "OK" and not r.first)
            if times:
                shares = np.arange(len(times) + 1) / len(times)
                left.step([0, *times], shares, where="post", label=f"{name}, {load}")
    left.set(xlabel="latency, s", ylabel="share of requests", ylim=(0, 1.02))
    left.set_xlim(left=0)
    if left.has_data():
        left.legend(loc="lower right")
    names = list(next(iter(results.values())))
    for i, name in enumerate(names):
        rates = [summary(by_name[name])["tokens_per_s"] for by_name in results.values()]
        places = np.arange(len(rates)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
        bars = right.bar(places, rates, 0.8 / len(names), label=name)
        right.bar_label(bars, fmt="%.1f")
    right.set_xticks(range(len(results)), list(results))
    right.set(ylabel="tokens/s")
    right.margins(y=0.2)
    right.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def main():
    values = flags.FLAGS
    mix = Mix(
        Range.parse("prompt_words", values.prompt_words),
        Range.parse("answer_tokens", values.answer_tokens),
        values.first_token_share,
        values.seed,
    )
    loads = _loads(values)
    places = _places(values)
    most = max(clients or IN_FLIGHT for clients, _ in loads.values())
    with contextlib.ExitStack() as stack:
        addresses = {"server": values.server} if values.server else {}
        for name, place in places.items():
            server = Server(place, grpc_max_threads=most + 8)
            addresses[name] = stack.enter_context(server).address
        model = values.model_name if values.server else NAME
        clients = {
            name: stack.enter_context(Client(address, model, timeout=values.timeout))
            for name, address in addresses.items()
        }
        for client in clients.values():
            try:  # a first request may take long where a model brings no warm-up requests
                client.generate([mix.request(0)[0]], max_new_tokens=1, timeout=START)
            except ServerError as error:
                raise ValueError(" ".join(str(error).split())) from error
        results, records = {}, {}
        for label, load in loads.items():
            results[label] = {name: [] for name in clients}
            records[label] = {name: [] for name in clients}
            for _ in range(values.rounds):
                found = measure(clients, mix, load, values.warmup, values.seconds)
                for name, (result, all_of_them) in found.items():
                    results[label][name].append(result)
                    records[label][name] += [r for r in all_of_them if r.due >= values.warmup]
    print(table(results))
    compared = ratios(results)
    for label, by_pair in compared.items():
        for pair, value in by_pair.items():
            print(f"{label}: tokens/s {pair}: {_text(value)}")
    if values.output:
        given = {name: values[name].value for name in
                 ("prompt_words", "answer_tokens", "first_token_share", "seed", "warmup",
                  "seconds", "rounds", "timeout")}  # fmt: skip
        report = {"flags": given, "models": places or {"server": values.server},
                  "median": {load: {name: summary(rounds) for name, rounds in by_name.items()}
                             for load, by_name in results.items()},
                  "ratio_of_tokens_per_s": compared, "rounds": results}  # fmt: skip
        write_json(values.output, report)
        picture(Path(values.output).with_suffix(".png"), records, results)


def _loads(values):
    """Label -> (clients, rate), one of them None."""
    if values.rate is not None:
        if values["clients"].present:
            raise cli.UsageError("--clients and --rate: give one of them")
        return {f"{values.rate:g}/s": (None, values.rate)}
    loads = {}
    for text in values.clients:
        if not text.isdecimal() or int(text) < 1:
            raise cli.UsageError(f"--clients={text}: expected numbers above 0, like 1,8")
        loads[f"{text} client{'s' * (text != '1')}"] = (int(text), None)
    return loads


def _places(values):
    """Name -> folder of versions of the models that a server is to be started for."""
    given = [name for name in ("server", "model_base_path", "compare") if values[name].value]
    if len(given) != 1:
        raise cli.UsageError("expected one of --server, --model_base_path and --compare")
    if values.model_base_path:
        return {"model": values.model_base_path}
    places = {}
    for pair in values.compare or ():
        name, equals, place = pair.partition("=")
        if not (name and equals and place) or name in places:
            raise cli.UsageError(f"--compare: {pair!r}: expected NAME=models/NAME, no name twice")
        places[name] = place
    return places


if __name__ == "__main__":
    flags.DEFINE_string("server", None, "host:port of the gRPC of a server that runs.")
    flags.DEFINE_string("model_name", "default", "Name of the model on --server.")
    flags.DEFINE_string("model_base_path", None, "Folder of versions to start a server for.")
    flags.DEFINE_list("compare", None, "NAME=folder of versions, several: each gets a server.")
    flags.DEFINE_list("clients", ["8"], "Clients at once; several numbers are measured in turn.")
    flags.DEFINE_float("rate", None, "Instead of --clients: requests a second.", lower_bound=1e-3)
    flags.DEFINE_string("prompt_words", "16-64", "Words of a prompt: a number or a range.")
    flags.DEFINE_string("answer_tokens", "16-64", "Tokens asked for: a number or a range.")
    flags.DEFINE_float(
        "first_token_share", 0.1, "Share of requests for the first token alone.",
        lower_bound=0, upper_bound=1,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 0, "Of prompts, lengths and arrivals.", lower_bound=0)
    flags.DEFINE_float("warmup", 5, "Seconds of load before each measurement.", lower_bound=0)
    flags.DEFINE_float("seconds", 20, "Seconds of each measurement.", lower_bound=0.1)
    flags.DEFINE_integer("rounds", 1, "Measurements of each model and load.", lower_bound=1)
    flags.DEFINE_float("timeout", 60, "Seconds that a request may take.", lower_bound=0.001)
    flags.DEFINE_string("output", "", "JSON file for the figures, with a PNG beside it.")
    cli.run(main)
