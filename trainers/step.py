"""TrainStep: one optimizer update over a global batch, on all replicas."""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2  # no public name for what XLA says of memory

from gpt_keras import losses
from gpt_keras.tasks import Task
from trainers.loss_scale import LossScale
from trainers.parts import parts_of
from trainers.strategy import distribute


class StepResult(NamedTuple):
    """Of one update.

    Attributes:
      loss: mean over the targets of the global batch, in nats, before the update; regularizers
        included.
      grad_norm: global norm of the mean gradient, before clipping.
      source_losses: (S,) the same of the rows of each of `sources`; nan where there are none.
      grad_norms: (P,) norms of the mean gradient by part of the model, see `parts_of`.
      update_ratio: norm of the change of the weights over that of the weights, if it was measured.
      update_ratios: (P,) the same by part.
      traced: this batch shape is new, so the step took longer than the next ones will.
      applied: False where the batch was left out, and no weight has changed.
      overflowed: so since float16's gradients were not finite; the loss scale has been halved.
    """

    loss: float
    grad_norm: float
    source_losses: Sequence[float] = ()
    grad_norms: Sequence[float] = ()
    update_ratio: float | None = None
    update_ratios: Sequence[float] = ()
    traced: bool = False
    applied: bool = True
    overflowed: bool = False


class TrainStep:
    """Gradient, reduction, clipping and update.

    The gradient is that of the weighted sum of losses; it is divided by the sum of the weights
    after both were summed over micro-batches and replicas. So any cut of a global batch gives the
    same update, but for the order of the sums (and for dropout, whose masks follow the cut).

    XLA compiles the gradient of a micro-batch, which costs seconds per batch shape, and without
    replicas the update, once for all shapes, which then takes three fifths of the time.

    Args:
      task: made under `strategy.scope()`, as `optimizer`.
      variables: Keras variables to train, those the optimizer was made for.
      optimizer: of `trainers.optimizer`.
      strategy: a `tf.distribute.Strategy`.
      first: the backbone's first block that is trained; the batch's `features` enter there.
      gradient_accumulation_steps: micro-batches that a replica's rows are cut into.
      max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
      regularizers: of the loss, see `gpt_keras.losses`.
      remat: compute the inside of each block anew for the gradient: less memory, the same result.
      loss_scale: for float16, or None.
      sources: names of those whose losses are told apart, by the batch's `source_id`.
      seed: of dropout.
      xla: compile the gradient.
      notify: is told, in one line, of what takes long or went another way.
    """

    def __init__(
        self,
        task: Task,
        variables: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        *,
        first: int = 0,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float = 0.0,
        regularizers: losses.Regularizers = losses.PLAIN,
        remat: bool = False,
        loss_scale: LossScale | None = None,
        sources: Sequence[str] = (),
        seed: int = 0,
        xla: bool = True,
        notify: Callable[[str], None] = print,
    ):
        self.task, self.variables, self.optimizer = task, list(variables), optimizer
        self.strategy, self.first = strategy, first
        self.micro_batches, self.max_grad_norm = gradient_accumulation_steps, max_grad_norm
        self.regularizers, self.remat, self.loss_scale = regularizers, remat, loss_scale
        self.sources, self.xla, self.notify = tuple(sources), xla, notify
        self.parts, self._part_of = parts_of(task, self.variables)
        self._dropout = _DropoutSeeds(task, seed)
        self._shapes: set[tuple[int, ...]] = set()  # of the batches that ran
        self._trace()

    def _trace(self):
        """Functions that retrace by batch shape; made anew when XLA is given up."""
        self._gradient = tf.function(
            self._gradient_of_micro_batch, jit_compile=self.xla, autograph=False
        )
        self._accumulate = tf.function(self._accumulate_on_replicas, autograph=False)
        # Replicas meet here, and those of one process in the update: XLA cannot compile that.
        self._reduce = tf.function(self._reduce_on_replicas, autograph=False)
        alone = len(self.strategy.extended.worker_devices) == 1
        self._apply = tf.function(
            self._apply_on_replicas, jit_compile=self.xla and alone, autograph=False
        )
        self._weights = tf.function(self._weights_on_replicas, autograph=False)
        self._ratios = tf.function(self._ratios_on_replicas, autograph=False)

    def __call__(
        self,
        batch: dict[str, np.ndarray],
        step: int,
        limit: float = math.inf,
        measure: bool = False,
    ) -> StepResult:
        """Updates the weights, unless loss or gradient are no numbers or the loss is too large.

        Args:
          batch: see `trainers.batches.BatchSource`; its rows are a multiple of replicas times
            micro-batches.
          step: batches before this one; dropout depends on it.
          limit: the largest loss that is not.
          measure: the update too, which for its while needs room for the weights once more.
        """
        shape = batch["token_ids"].shape
        self._check_rows(shape[0])
        inputs = distribute(self.strategy, batch)
        step = tf.constant(step, tf.int64)
        traced = shape not in self._shapes
        if self.xla and traced:
            self.notify(f"compiling the step for batches of {shape[0]} x {shape[1]} tokens (XLA)")
        try:
            result = self._update(inputs, step, limit, measure)
        except tf.errors.OpError as error:
            if not self.xla or not traced:
                raise
            # No weight has changed yet: XLA compiles the whole update before it runs any of it.
            reason = " ".join(str(error.message).split())[:200]
            self.notify(f"XLA cannot compile this step; going on without (--noxla): {reason}")
            self.xla = False
            self._trace()
            result = self._update(inputs, step, limit, measure)
        self._shapes.add(shape)
        return result._replace(traced=traced)

    def _update(self, inputs, step, limit: float, measure: bool) -> StepResult:
        *numbers, scale, gradients = self._reduce(self._accumulate(inputs, step))
        result = StepResult(*(number.numpy().tolist() for number in numbers))
        loss, norm = result.loss, result.grad_norm
        if self.loss_scale is not None and not math.isfinite(norm):
            halved = self.loss_scale.halve()
            self.notify(
                f"gradients not finite in float16: step left out, loss scale now {halved:g}"
            )
            return result._replace(applied=False, overflowed=True)
        # Decided here and not by a condition in the update, which then took XLA a quarter longer.
        applied = math.isfinite(loss) and math.isfinite(norm) and loss <= limit
        if applied:
            before = self._weights() if measure else None
            self._apply(gradients, scale)
            if measure:
                ratio, ratios = (x.numpy().tolist() for x in self._ratios(before))
                result = result._replace(update_ratio=ratio, update_ratios=ratios)
            if self.loss_scale is not None:
                self.loss_scale.count()
        return result._replace(applied=applied)

    def scratch_bytes(self, batch: dict[str, np.ndarray]) -> int:
        """Memory of the gradient of a micro-batch of `batch` besides weights and gradients, by XLA.

        Raises:
          tf.errors.OpError: XLA cannot compile it.
        """
        self._check_rows(len(batch["token_ids"]))
        parts = self.strategy.num_replicas_in_sync * self.micro_batches
        one = {name: tf.constant(value[: len(value) // parts]) for name, value in batch.items()}
        gradient = tf.function(self._gradient_of_micro_batch, jit_compile=True, autograph=False)
        compiled = gradient.experimental_get_compiler_ir(one, tf.constant(0, tf.int64))
        module = hlo_pb2.HloProto.FromString(compiled(stage="optimized_hlo_proto_serialized"))
        return sum(
            buffer.size
            for buffer in module.buffer_assignment.buffer_allocations
            if not (buffer.is_entry_computation_parameter or buffer.maybe_live_out)
        )

    def _check_rows(self, rows: int):
        replicas = self.strategy.num_replicas_in_sync
        if rows % (replicas * self.micro_batches):
            raise ValueError(
                f"global_batch_size={rows} is not a multiple of num_replicas={replicas} x "
                f"gradient_accumulation_steps={self.micro_batches}; change one of them"
            )

    def _accumulate_on_replicas(self, batch, step):
        return self.strategy.run(self._accumulate_on_replica, (batch, step))

    def _accumulate_on_replica(self, batch, step):
        """Sums over this replica's rows: see `_gradient_of_micro_batch`."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = step * (self.strategy.num_replicas_in_sync * self.micro_batches)
        part += tf.cast(replica, tf.int64) * self.micro_batches
        if self.micro_batches == 1:
            return self._gradient(batch, part)
        rows = batch["token_ids"].shape[0] // self.micro_batches
        micro = {
            name: tf.reshape(value, (self.micro_batches, rows, *value.shape[1:]))
            for name, value in batch.items()
        }

        def add(i, sums):
            one = {name: value[i] for name, value in micro.items()}
            return i + 1, tf.nest.map_structure(
                tf.add, sums, self._gradient(one, part + tf.cast(i, tf.int64))
            )

        sums = tf.zeros((max(1, len(self.sources)), 2))
        zeros = sums, [tf.zeros(v.shape, v.dtype) for v in self.variables]
        # One at a time, or the activations of several would be in memory.
        _, sums = tf.while_loop(
            lambda i, _: i < self.micro_batches, add, (0, zeros), parallel_iterations=1
        )
        return sums

    def _gradient_of_micro_batch(self, batch, part):
        """Sums over the rows: (S, 2) loss and weight by source, gradient of each variable.

        `part` seeds dropout.
        """
        variables = [v.value for v in self.variables]
        if self.loss_scale is not None:
            batch = self._scale_weights(batch)
        if self.first and "features" not in batch:
            batch = {**batch, "features": self.task.features(batch, last=self.first)}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            config = self.task.config
            routing = [] if config.num_experts and config.router_loss else None
            with self._dropout(part):
                features = self.task.features(
                    batch, first=self.first, training=True, remat=self.remat, routing=routing
                )
            loss = self.task.batch_loss(batch, features, self.regularizers)
            if routing:
                loss = self.task.with_router_loss(loss, batch, routing)
        gradients = tape.gradient(loss.total, variables, unconnected_gradients="zero")
        return self._sums(loss, batch), [tf.convert_to_tensor(g) for g in gradients]

    def _sums(self, loss: losses.Loss, batch):
        """(S, 2) loss and weight by source; S is 1 where none are told apart."""
        if not self.sources:
            return tf.stack([loss.total, loss.weight])[None]
        return tf.math.unsorted_segment_sum(loss.rows, batch["source_id"], len(self.sources))

    def _scale_weights(self, batch):
        """The batch with its weights times the loss scale, over their number.

        So loss and gradient are scaled, but not the mean, which is divided by the weights' sum.
        """
        weights = {name: batch[name] for name in ("loss_mask", "weight") if name in batch}
        scale = tf.convert_to_tensor(self.loss_scale.value)
        scaled = {name: w * (scale / w.shape.num_elements()) for name, w in weights.items()}
        return {**batch, **scaled}

    def _reduce_on_replicas(self, sums):
        """Mean loss, norm of the mean gradient, both by parts; the factor that gradients need.

        And the gradients, still sums.
        """
        *numbers, gradients = self.strategy.run(self._reduce_on_replica, (sums,))
        first = self.strategy.experimental_local_results  # all replicas hold the same
        return *(first(number)[0] for number in numbers), gradients

    def _reduce_on_replica(self, sums):
        context = tf.distribute.get_replica_context()
        sums = tf.nest.map_structure(tf.identity, sums)  # on a device, which all_reduce looks for
        sums, gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        total, weight = tf.unstack(tf.reduce_sum(sums, axis=0))
        weight = tf.maximum(weight, 1e-9)
        norm, norms = (x / weight for x in self._norms(gradients))
        scale = 1.0 / weight
        if self.max_grad_norm:
            scale *= self.max_grad_norm / tf.maximum(norm, self.max_grad_norm)
        source_losses = (sums[:, 0] / sums[:, 1])[: len(self.sources)]
        return total / weight, norm, source_losses, norms, scale, gradients

    def _norms(self, values):
        """Norm of all that is given for the variables, and (P,) of the parts."""
        squares = tf.stack([2 * tf.nn.l2_loss(x) for x in values])
        parts = tf.math.unsorted_segment_sum(squares, self._part_of, len(self.parts))
        return tf.sqrt(tf.reduce_sum(squares)), tf.sqrt(parts)

    def _apply_on_replicas(self, gradients, scale):
        self.strategy.run(self._apply_on_replica, (gradients, scale))

    def _apply_on_replica(self, gradients, scale):
        self.optimizer.apply([g * tf.cast(scale, g.dtype) for g in gradients], self.variables)

    def _weights_on_replicas(self):
        return self.strategy.run(lambda: [tf.convert_to_tensor(v) for v in self.variables])

    def _ratios_on_replicas(self, before):
        ratios = self.strategy.run(self._ratios_on_replica, (before,))
        return [self.strategy.experimental_local_results(ratio)[0] for ratio in ratios]

    def _ratios_on_replica(self, before):
        """Norm of the change of the weights over their norm before it, () and by part (P,)."""
        now = map(tf.convert_to_tensor, self.variables)
        changes = self._norms([new - old for new, old in zip(now, before, strict=True)])
        return [tf.math.divide_no_nan(*x) for x in zip(changes, self._norms(before), strict=True)]


class _DropoutSeeds:
    """Makes dropout a function of (seed, step, part of the batch), with nothing remembered.

    Keras' dropout layers count their calls in a variable. Within this scope that variable reads as
    a constant made of the seed and the step, and the count is not kept.
    """

    def __init__(self, task: Task, seed: int):
        self.states = [v for v in task.variables if v.name == "seed_generator_state"]
        # Not made of the paths: Keras numbers these generators through the whole process.
        self.keys = [np.int64(zlib.crc32(f"{seed} {i}".encode())) for i in range(len(self.states))]

    def __call__(self, part):
        mapping = [
            (state, tf.cast(tf.stack([key, part]), state.dtype))
            for state, key in zip(self.states, self.keys, strict=True)
        ]
        return keras.StatelessScope(state_mapping=mapping)


def trained_variables(task: Task, top_layers: int = 0) -> tuple[list[keras.Variable], int]:
    """What `--train_top_layers` trains.

    Args:
      task: the model.
      top_layers: the last N blocks, the last norm and the head; 0 trains everything. A head that
        is the embedding table stays as it is: training it would change the frozen body.

    Returns:
      The variables, and the first block among them.

    Raises:
      ValueError: more layers than there are.
    """
    backbone, layers = task.backbone, task.config.num_layers
    if not 0 <= top_layers <= layers:
        raise ValueError(
            f"train_top_layers={top_layers}: the model has {layers}; give 1 to {layers}, or 0 for "
            "all weights"
        )
    if not top_layers:
        return task.trainable_variables, 0
    first = layers - top_layers
    body = {id(v) for layer in backbone.blocks[:first] for v in layer.trainable_variables}
    body.update(
        id(v)
        for v in backbone.embedding.trainable_variables
        if v is not backbone.embedding.head or v is backbone.embedding.table
    )
    return [v for v in task.trainable_variables if id(v) not in body], first


def count_parameters(variables: Sequence[keras.Variable]) -> int:
    return sum(math.prod(v.shape) for v in variables)
