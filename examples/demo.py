"""The main job from end to end: real weights, a served chat model, a fine-tuned classifier.

    make demo

Every step is a command that you could type yourself; it is printed before it runs. What an
earlier run has left under `runs/demo` and `models` is used again: delete those to start over.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

GGUF = Path("data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
RUNS = Path("runs/demo")
CHAT_MODEL = RUNS / "smollm2"
CLASSIFIER = RUNS / "tweets"
SERVED = Path("models")
TWEETS = Path("data/tweets")
EXAMPLES = (
    "I love this phone, best thing I bought all year!",
    "My flight was cancelled and nobody told us anything.",
    "The meeting is on Tuesday at ten.",
)


def main():
    started = time.monotonic()
    step(
        "1. Real weights: SmolLM2-135M-Instruct, from GGUF to a Hugging Face directory",
        "The 4-bit file is read into float32; transformers or vLLM could load the result as well.",
    )
    run("examples.fetch_data", "smollm2", "tweets")
    if not CHAT_MODEL.exists():
        run("gpt_keras.import_checkpoint", f"--source={GGUF}", f"--output_dir={CHAT_MODEL}")

    step(
        "2. One SavedModel, text in and text out, served and asked over gRPC",
        "Tokenizer, chat template and decoding loop go into the graph, so that a server needs none "
        "of our Python. Two minutes: the export, its check, and the server's warm-up.",
    )
    export(CHAT_MODEL, "smollm2")
    with serve(["smollm2"]) as ports:
        question = "What is the capital of France?"
        answer = run("export.client", "chat", f"--server=localhost:{ports['grpc']}",
                     "--model_name=smollm2", f"--message={question}", capture=True)  # fmt: skip
        if "Paris" not in answer:
            sys.exit(f"demo: expected the answer to name Paris, got {answer!r}")

    step(
        "3. Fine-tuning its top layers to tell the sentiment of tweets",
        "The lower layers stay as they are and run once per tweet, so that later epochs are cheap.",
    )
    run("examples.prepare_tweets")
    if not (CLASSIFIER / "model").exists():
        shutil.rmtree(CLASSIFIER, ignore_errors=True)
        run("trainers.finetune", "--config_file=examples/tweets_small.yaml",
            f"--model={CHAT_MODEL}", f"--output_dir={CLASSIFIER}")  # fmt: skip
    say("The same test tweets, by a linear model on words (TF-IDF + logistic regression):")
    run("examples.tfidf_baseline", f"--train_data={TWEETS}/train_small.jsonl",
        f"--train_data={TWEETS}/train.jsonl", f"--eval_data={TWEETS}/test_small.jsonl")  # fmt: skip

    step(
        "4. Both models in one server, asked over gRPC and REST",
        "The classifier goes the same way as the chat model; a stock TensorFlow Serving would take "
        "both folders as they are.",
    )
    export(CLASSIFIER / "model", "tweets")
    with serve(["smollm2", "tweets"]) as ports:
        texts = [f"--text={text}" for text in EXAMPLES]
        run("export.client", "classify", f"--server=localhost:{ports['grpc']}",
            "--model_name=tweets", *texts)  # fmt: skip
        url = f"http://localhost:{ports['rest']}/v1/models/tweets:predict"
        body = json.dumps({"instances": list(EXAMPLES)})
        say(f"$ curl -d {shlex.quote(body)} {url}")
        request = urllib.request.Request(url, data=body.encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            for text, scored in zip(EXAMPLES, json.load(response)["predictions"], strict=True):
                best = f"{scored['labels'][0]} {scored['scores'][0]:.2f}"
                say(f"  {best:15s} {text}")
        run("export.client", "generate", f"--server=localhost:{ports['grpc']}",
            "--model_name=smollm2", "--prompt=Once upon a time", "--max_new_tokens=24")  # fmt: skip

    minutes = (time.monotonic() - started) / 60
    step(f"Done in {minutes:.1f} minutes; everything that was started has been stopped")
    say(f"See the training:   {Path(sys.executable).parent}/tensorboard --logdir {CLASSIFIER}")
    say(f"Serve it yourself:  {sys.executable} -m export.serve --model_name=smollm2 "
        f"--model_base_path={SERVED}/smollm2 --port=8500 --rest_api_port=8501")  # fmt: skip


def export(model: Path, name: str):
    """Publishes models/NAME/1 unless a version is there."""
    if (SERVED / name).exists():
        say(f"{SERVED / name}: already there")
        return
    run("export.saved_model", f"--model={model}", f"--output_dir={SERVED / name}")


@contextmanager
def serve(names):
    """A server of these models on free ports; yields {"grpc": port, "rest": port}."""
    config = RUNS / "models.config"
    config.write_text("model_config_list {\n" + "".join(
        f'  config {{ name: "{name}" base_path: "{(SERVED / name).resolve()}" '
        'model_platform: "tensorflow" }\n' for name in names) + "}\n")  # fmt: skip
    command = ["export.serve", f"--model_config_file={config}", "--port=0", "--rest_api_port=0"]
    say("A server starts and answers the models' warm-up requests, half a minute for each ...")
    process = subprocess.Popen(shown(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, env=environment())  # fmt: skip
    try:
        yield _ports(process)
    finally:
        process.terminate()
        process.wait(30)


def _ports(process):
    """Reads the server's output until it has named both its ports."""
    found, output = {}, []
    for line in process.stdout:
        output.append(line)
        for kind, pattern in (("grpc", r"gRPC ModelServer at \S*:(\d+)"),
                              ("rest", r"HTTP/REST API at\S*:(\d+)")):  # fmt: skip
            if match := re.search(pattern, line):
                found[kind] = int(match[1])
                say(line.rstrip())
        if len(found) == 2:
            return found
    sys.exit("demo: the server did not start:\n" + "".join(output))


def run(module, *arguments, capture=False):
    """Runs `python -m module` and ends the demo if it fails; returns its output if captured."""
    command = shown([module, *arguments])
    result = subprocess.run(command, text=True, env=environment(), check=False,
                            stdout=subprocess.PIPE if capture else None)  # fmt: skip
    if capture:
        say(result.stdout.rstrip())
    if result.returncode:
        sys.exit(f"demo: {module} ended with status {result.returncode}")
    return result.stdout


def shown(arguments):
    """The whole command line of a module, after printing it."""
    say("$ python -m " + shlex.join(arguments))
    return [sys.executable, "-m", *arguments]


def environment():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}


def step(title, why=""):
    say(f"\n=== {title}" + (f"\n    {why}" if why else ""))


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    RUNS.mkdir(parents=True, exist_ok=True)
    main()
