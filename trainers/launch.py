"""Starts the workers of one run as processes of this machine.

    python -m trainers.launch --workers=2 -- trainers.finetune --model=DIR --task=causal_lm \\
        --train_data=texts.jsonl --output_dir=runs/two

Each worker gets its TF_CONFIG and --strategy=multi_worker; what it prints comes out here, a line at
a time, behind its number. When one fails, the others are stopped, and the exit status is that of
the first. SIGTERM and SIGINT are passed on: the run is saved, and --resume of the trainer continues
it, also with another number of workers.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import tensorflow as tf
from absl import flags as absl_flags

from trainers import args
from trainers.cluster import free_addresses
from trainers.trainer_process import (
    Share,
    Trainer,
    shares,
    signal_processes,
    start_process,
    stop_processes,
    trainer_flags,
    with_trainer_flags,
)

GRACE_SECONDS = 10.0  # for the others when one has failed
POLL_SECONDS = 0.05


def launch_flags(flags: args.FlagValues) -> None:
    """Workers."""
    absl_flags.DEFINE_integer("workers", 2, "processes", lower_bound=1, flag_values=flags)
    absl_flags.DEFINE_boolean(
        "cores", True, "pin each worker to its share of the CPU's cores; GPUs are shared out too",
        flag_values=flags,
    )  # fmt: skip


FLAGS = (launch_flags, trainer_flags)


def main(flags: args.FlagValues) -> None:
    trainer = Trainer.parse(flags.trainer, fixed=("strategy", "num_replicas"))
    parts = shares(flags.workers, len(tf.config.list_physical_devices("GPU")))
    if not flags.cores:
        parts = [Share(environment=part.environment) for part in parts]
    command = [sys.executable, "-m", trainer.module, *trainer.arguments]
    status = Workers([*command, "--strategy=multi_worker"], parts).wait()
    if status:
        sys.exit(status)


class Workers:
    """Processes that train together.

    They die with this one, however it ends.

    Args:
      command: of each.
      parts: of the machine, one for each.
    """

    def __init__(self, command: Sequence[str], parts: Sequence[Share]):
        addresses = free_addresses(len(parts))
        self._processes, self._readers = [], []
        for index, part in enumerate(parts):
            task = {"type": "worker", "index": index}
            config = json.dumps({"cluster": {"worker": addresses}, "task": task})
            process = start_process(command, part, subprocess.PIPE, {"TF_CONFIG": config})
            reader = threading.Thread(target=_print_lines, args=(index, process.stdout))
            reader.start()
            self._processes.append(process)
            self._readers.append(reader)

    def wait(self) -> int:
        """Exit status of the first that failed, once all have ended; 0 if none did.

        As in a shell, 128 and the number of the signal that killed it. One that has stopped has not
        failed: all stop after the same step, and the chief saves.
        """
        fine = (None, 0, args.STOPPED)
        with self._passing_on():
            while True:
                ends = [process.poll() for process in self._processes]
                failed = next((i for i, end in enumerate(ends) if end not in fine), None)
                if failed is not None or None not in ends:
                    break
                time.sleep(POLL_SECONDS)
            if failed is not None:  # the others may wait for it in vain
                stop_processes(self._processes, GRACE_SECONDS)
        for reader in self._readers:
            reader.join()
        if failed is None:
            return max(ends)
        status = self._processes[failed].returncode
        how = f"ended with status {status}"
        if status < 0:
            how, status = f"was killed by {signal.Signals(-status).name}", 128 - status
        print(f"trainers.launch: worker {failed} {how}", file=sys.stderr)
        return status

    @contextlib.contextmanager
    def _passing_on(self):
        """Within it, signals go to the workers."""

        def pass_on(number, frame):
            signal_processes(self._processes, number)

        numbers = (signal.SIGTERM, signal.SIGINT)
        former = [signal.signal(number, pass_on) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, former, strict=True):
                signal.signal(number, handler)


def _print_lines(index: int, stream) -> None:
    with stream:
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            # In one write, or lines of several workers could be mixed.
            sys.stdout.write(f"[worker {index}] {text}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    args.run(main, FLAGS, with_trainer_flags(sys.argv))
