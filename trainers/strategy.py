"""Strategies: on which devices a step runs, which rows of the batch each replica gets, and what
the workers tell each other besides gradients.
"""

import contextlib
import faulthandler
import signal
import threading

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from trainers.args import FlagValues, UsageError
from trainers.cluster import Cluster

STRATEGIES = ("one_device", "mirrored", "multi_worker")
PACK_BYTES = 8 << 20  # of gradients that go round together, so that packing and sending overlap


def strategy_flags(flags: FlagValues) -> None:
    """Devices."""
    absl_flags.DEFINE_enum(
        "strategy",
        "one_device",
        STRATEGIES,
        "one_device: the first GPU, or the CPU. mirrored: a copy of the model on each device, "
        "which share the batch. multi_worker: the same on the devices of all workers that the "
        "environment variable TF_CONFIG names (see trainers.launch)",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "join_seconds",
        300.0,
        "seconds that --strategy=multi_worker waits until all workers are there",
        lower_bound=0.0,
        flag_values=flags,
    )
    absl_flags.DEFINE_integer(
        "num_replicas",
        0,
        "copies of --strategy=mirrored; 0: one a GPU. Without a GPU the CPU is cut into as many "
        "logical devices",
        lower_bound=0,
        flag_values=flags,
    )
    absl_flags.DEFINE_boolean(
        "xla",
        True,
        "compile the gradient of each batch shape with XLA: 2 to 25 s once, then faster steps",
        flag_values=flags,
    )


def make_strategy(
    name: str = "one_device", num_replicas: int = 0, join_seconds: float = 300.0
) -> tf.distribute.Strategy:
    """The strategy of `--strategy`, `--num_replicas` and `--join_seconds`.

    Call it before anything runs on a device: cutting the CPU into logical devices has to come
    first, and connecting workers.

    Raises:
      UsageError: more replicas than there are devices; no cluster.
      ValueError: a worker has not come.
    """
    if name == "multi_worker":
        Cluster.from_environment().meet(join_seconds)
        with _sigterm_kept(), _time_limit(join_seconds):
            return _multi_worker()
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
    if name != "mirrored":
        raise UsageError(f"--strategy={name}: give one of {', '.join(STRATEGIES)}")
    devices = gpus or _logical_cpus(num_replicas)
    count = num_replicas or len(devices)
    if count > len(devices):
        raise UsageError(
            f"--num_replicas={num_replicas}: there are {len(devices)} devices; give fewer, or 0"
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])


def _multi_worker() -> tf.distribute.Strategy:
    communication = tf.distribute.experimental.CommunicationImplementation
    gpus = tf.config.list_physical_devices("GPU")
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=communication.AUTO if gpus else communication.RING,
        bytes_per_pack=0 if gpus else PACK_BYTES,
    )
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


@contextlib.contextmanager
def _sigterm_kept():
    """TensorFlow's workers catch SIGTERM, to no effect: within it it waits, and then is as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []  # what another thread took, whose mask is its own
    handler = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if came:
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _time_limit(seconds: float):
    """Ends the process with status 1 and a traceback if it takes longer.

    TensorFlow waits an hour for a worker that has died since they met, and holds Python's lock.
    """
    faulthandler.dump_traceback_later(max(seconds, 1.0), exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _logical_cpus(count: int):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count and tf.config.get_logical_device_configuration(cpu) is None:
        logical = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, logical)
    return tf.config.list_logical_devices("CPU")


def distribute(strategy: tf.distribute.Strategy, batch: dict[str, np.ndarray]):
    """Hands each replica its consecutive rows of a global batch.

    Args:
      batch: arrays of B rows, B a multiple of the number of replicas.

    Returns:
      The same dictionary of tensors, or of `PerReplica` values, for `strategy.run`.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return {name: tf.convert_to_tensor(value) for name, value in batch.items()}

    def rows(context):
        replica = context.replica_id_in_sync_group
        return {
            name: tf.convert_to_tensor(np.split(value, count)[replica])
            for name, value in batch.items()
        }

    return strategy.experimental_distribute_values_from_function(rows)


def gather(strategy: tf.distribute.Strategy, value) -> np.ndarray:
    """Rows of all replicas of all workers, in the order of the global batch."""
    rows = [part.numpy() for part in strategy.experimental_local_results(value)]
    rows = exchange(strategy, np.concatenate(rows))
    return rows.reshape(-1, *rows.shape[2:])


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Processes that train together."""
    if strategy.num_replicas_in_sync == 1:
        return 1
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def exchange(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """The values of all workers, (workers, *shape), in their order; a call of all of them.

    Args:
      value: numbers, of the same shape and dtype on all workers.
    """
    value = np.asarray(value)
    count = num_workers(strategy)
    if count == 1:
        return value[None]
    local = len(strategy.extended.worker_devices)

    def place(context):
        worker, replica = divmod(context.replica_id_in_sync_group, local)
        mine = np.zeros((count, *value.shape), value.dtype)
        if replica == 0:
            mine[worker] = value
        return tf.constant(mine)

    # By a sum and not by `strategy.gather`, which orders workers by name: 10 before 2.
    return _sum(strategy, strategy.experimental_distribute_values_from_function(place))


def exchange_text(strategy: tf.distribute.Strategy, text: str) -> list[str]:
    """The texts of all workers, in their order; a call of all of them."""
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    sizes = exchange(strategy, np.int64(len(data)))
    padded = np.pad(data, (0, sizes.max() - len(data)))
    rows = exchange(strategy, padded).astype(np.uint8)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def broadcast(strategy: tf.distribute.Strategy, value: np.ndarray) -> np.ndarray:
    """The chief's value, which has the same shape and dtype on all workers; a call of them all."""
    value = np.asarray(value)
    if num_workers(strategy) == 1:
        return value

    def place(context):
        return tf.constant(value if context.replica_id_in_sync_group == 0 else np.zeros_like(value))

    return _sum(strategy, strategy.experimental_distribute_values_from_function(place))


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once all workers have called it."""
    exchange(strategy, np.int32(0))


def _sum(strategy: tf.distribute.Strategy, values) -> np.ndarray:
    return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()
