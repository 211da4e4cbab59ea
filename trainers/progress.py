"""ProgressBar: how far a run is and how long it still takes."""

import sys
import time

from tqdm import tqdm


class ProgressBar:
    """A bar on a terminal; elsewhere (a log file) a line every few seconds.

    Args:
      total: steps of the run.
      done: steps that a resumed run has behind it.
      log_seconds: seconds between two lines where there is no terminal.
      stream: where it is shown.
    """

    def __init__(self, total: int, done: int = 0, log_seconds: float = 10.0, stream=None):
        self.total, self.done = total, done
        self.log_seconds, self.stream = log_seconds, stream or sys.stderr
        self._bar = None
        if self.stream.isatty():
            self._bar = tqdm(
                total=total, initial=done, file=self.stream, unit="step", dynamic_ncols=True
            )
        self._timed_seconds, self._timed_steps = 0.0, 0
        self._last_line = time.monotonic()

    def update(
        self, loss: float, learning_rate: float, tokens: int, seconds: float, usual: bool = True
    ) -> None:
        """One more step is done.

        Args:
          loss: nats.
          learning_rate: of the step.
          tokens: real ones in it.
          seconds: it took.
          usual: whether it says how long others will take; one that compiled does not.
        """
        self.done += 1
        if usual:
            self._timed_steps += 1
            self._timed_seconds += seconds
        text = f"loss {loss:.4f}  lr {learning_rate:.2e}  {tokens / seconds:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last_line < self.log_seconds and self.done < self.total:
            return
        self._last_line = now
        print(
            f"step {self.done}/{self.total}  {text}  {self._left()}", file=self.stream, flush=True
        )

    def _left(self) -> str:
        if not self._timed_steps:
            return "time left unknown"
        left = (self.total - self.done) * self._timed_seconds / self._timed_steps
        return f"{tqdm.format_interval(left)} left"

    def say(self, line: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
