"""HParams: the trials of a search on TensorBoard's HParams page."""

import os
import time
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorboard.plugins.hparams import api, api_pb2, summary

from trainers.search_space import Dimension


def write_experiment(folder: str, space: Sequence[Dimension], metric: str) -> None:
    """Says which columns the page has: the flags searched, and the value of a trial.

    Args:
      folder: above those of the trials; TensorBoard's `--logdir`.
      metric: what the search goes by.
    """
    hparams = [api.HParam(dimension.flag, _domain(dimension)) for dimension in space]
    metrics = [api.Metric(f"tune/{metric}", display_name=metric)]
    _write(folder, [api.hparams_config_pb(hparams, metrics)])


def write_trial(
    folder: str,
    values: Mapping[str, object],
    metric: str,
    value: float | None,
    start: float,
    failed: bool = False,
) -> None:
    """Adds a trial's line, once it has ended.

    Args:
      folder: of the trial's own event files.
      values: of the flags searched.
      metric, value: what it came to; None where it came to nothing.
      start: Unix seconds.
      failed: it ended in an error.
    """
    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    name = os.path.basename(os.path.dirname(folder))
    session = [
        api.hparams_pb(dict(values), trial_id=name, start_time_secs=start),
        summary.session_end_pb(status, end_time_secs=time.time()),
    ]
    _write(folder, session, {f"tune/{metric}": value} if value is not None else {})


def _domain(dimension: Dimension):
    if dimension.kind == "choice":
        return api.Discrete(dimension.choices)
    interval = api.IntInterval if dimension.whole else api.RealInterval
    return interval(dimension.low, dimension.high)


def _write(folder: str, summaries, scalars: Mapping[str, float] | None = None) -> None:
    writer = tf.summary.create_file_writer(folder)
    with writer.as_default(step=0):
        for message in summaries:
            tf.summary.experimental.write_raw_pb(message.SerializeToString())
        for name, value in (scalars or {}).items():
            tf.summary.scalar(name, value)
    writer.close()
