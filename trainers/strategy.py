"""Strategies: on which devices a step runs, and which rows of the batch each replica gets."""

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from trainers.args import FlagValues, UsageError

STRATEGIES = ("one_device", "mirrored")


def strategy_flags(flags: FlagValues) -> None:
    """Devices."""
    absl_flags.DEFINE_enum(
        "strategy",
        "one_device",
        STRATEGIES,
        "one_device: the first GPU, or the CPU. mirrored: a copy of the model on each device, "
        "which share the batch",
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


def make_strategy(name: str = "one_device", num_replicas: int = 0) -> tf.distribute.Strategy:
    """The strategy of `--strategy` and `--num_replicas`.

    Call it before anything runs on a device: cutting the CPU into logical devices has to come
    first.

    Raises:
      UsageError: more replicas than there are devices.
    """
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
    """Rows of all replicas, in the order of the global batch."""
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])
