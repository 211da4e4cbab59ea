"""Speed and memory of trainers.prepare_data, beside Hugging Face `tokenizers` on the same cores.

    python -m benchmarks.prepare_data --megabytes=1000 --output=bench/prepare_data.json

SmolLM2's tokenizer; documents of 2 KB of Shakespeare in JSONL, over and over, each with a number of
its own so that none is a duplicate. Ours is the whole program: reading, hashing, tokenizing in
processes, writing with checksums; with and without its start of some seconds. The peer tokenizes
texts that are in memory already, in as many threads as there are cores, and nothing else; it gets
the first `--peer_megabytes` before and after ours. Memory is that of all processes together, five
times a second: its peak in the second and the last fifth of the work.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from absl import app, flags

from trainers.files import write_json

DATA = Path("data")
FILE_MEGABYTES = 100


def write_texts(folder, megabytes):
    """JSONL files of so much text."""
    sources = [p.read_text(encoding="utf-8") for p in sorted(DATA.glob("shakespeare/*_gut*.txt"))]
    if not sources:
        sys.exit("no data/shakespeare: run `python -m examples.fetch_data shakespeare`")
    pieces = [text[at : at + 2000] for text in sources for at in range(0, len(text), 2000)]
    numbers = itertools.count()
    for file in range(-(-megabytes // FILE_MEGABYTES)):
        left = min(FILE_MEGABYTES, megabytes - file * FILE_MEGABYTES) * 1_000_000
        with open(folder / f"{file:03d}.jsonl", "w", encoding="utf-8") as stream:
            while left > 0:
                number = next(numbers)
                text = f"{number}\n{pieces[number % len(pieces)]}"
                stream.write(json.dumps({"text": text}) + "\n")
                left -= len(text.encode())


def read_texts(folder, megabytes):
    left = megabytes * 1_000_000
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                text = json.loads(line)["text"]
                left -= len(text.encode())
                yield text
                if left <= 0:
                    return


def measure_peer(tokenizer_dir, texts):
    """Tokens a second of Hugging Face's, in batches of a thousand texts."""
    import tokenizers as hf

    tokenizer = hf.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.encode_batch_fast(texts[:1000], add_special_tokens=False)
    begin, count = time.monotonic(), 0
    for at in range(0, len(texts), 1000):
        batch = tokenizer.encode_batch_fast(texts[at : at + 1000], add_special_tokens=False)
        count += sum(len(encoding.ids) for encoding in batch)
    return count / (time.monotonic() - begin)


def measure_ours(texts_dir, tokenizer_dir, output_dir, num_processes):
    """Figures of the whole program, in a process of its own."""
    command = [
        sys.executable, "-m", "trainers.prepare_data", f"--train_data={texts_dir}",
        f"--tokenizer={tokenizer_dir}", f"--output_dir={output_dir}", "--log_seconds=1",
        f"--num_processes={num_processes}", f"--shard_tokens={2**24}",
    ]  # fmt: skip
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples, first = [], []

    def sample():
        while process.poll() is None:
            samples.append((time.monotonic(), memory(process.pid)))
            time.sleep(0.2)

    thread = threading.Thread(target=sample)
    thread.start()
    for line in process.stdout:
        print(line, end="")
        if "tokens/s" in line and not first:
            first = [time.monotonic(), int(line.split()[2].replace(",", ""))]
    thread.join()
    end = time.monotonic()
    if process.returncode:
        sys.exit("prepare_data failed")
    manifest = json.loads((output_dir / "manifest.json").read_text())
    tokens = sum(split["tokens"] for split in manifest["splits"].values())
    start = first[0] if first else begin

    def peak(fifth):
        a, b = (start + (end - start) * x / 5 for x in (fifth, fifth + 1))
        return max(size for moment, size in samples if a <= moment <= b)

    return {
        "seconds": end - begin,
        "tokens": tokens,
        "tokens_per_s": tokens / (end - begin),
        "tokens_per_s_after_start": (tokens - first[1]) / (end - first[0]) if first else None,
        "peak_mb_second_fifth": peak(1),
        "peak_mb_last_fifth": peak(4),
        "peak_mb": max(size for _, size in samples),
    }


def memory(pid):
    """MB of a process and those below it; pages that they share count for a part in each."""
    total = 0
    try:
        processes = [psutil.Process(pid)]
        processes += processes[0].children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def main(_):
    from gpt_keras import checkpoint

    options, cores = flags.FLAGS, len(os.sched_getaffinity(0))
    os.environ["RAYON_NUM_THREADS"] = str(cores)
    (gguf_file,) = (DATA / "smollm2").glob("*.gguf")
    with tempfile.TemporaryDirectory(dir=options.scratch_dir or None) as folder:
        folder = Path(folder)
        checkpoint.read_tokenizer(gguf_file).save(folder / "tokenizer")
        (folder / "texts").mkdir()
        write_texts(folder / "texts", options.megabytes)
        peer_texts = list(read_texts(folder / "texts", options.peer_megabytes))
        peer = [measure_peer(folder / "tokenizer", peer_texts)]
        ours = measure_ours(
            folder / "texts", folder / "tokenizer", folder / "out", options.num_processes or cores
        )
        peer.append(measure_peer(folder / "tokenizer", peer_texts))
    report = {"cores": cores, "megabytes": options.megabytes, "ours": ours, "hf_tokens_per_s": peer}
    report["ours_over_hf"] = ours["tokens_per_s"] / np.mean(peer)
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.DEFINE_string("output", "", "JSON file for the figures; empty: none")
    flags.DEFINE_integer("megabytes", 1000, "text to prepare, in MB", lower_bound=1)
    flags.DEFINE_integer("peer_megabytes", 40, "text for the peer, in MB", lower_bound=1)
    flags.DEFINE_integer("num_processes", 0, "of ours; 0: one a core", lower_bound=0)
    flags.DEFINE_string("scratch_dir", "", "where the files go; empty: the system's place")
    app.run(main)
