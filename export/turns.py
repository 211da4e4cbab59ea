"""Turns: calls of a function that run one at a time, whichever requests they are of."""

import tensorflow as tf

QUEUE = 4096  # calls that wait for their turn, at most one a request


class Turns:
    """A function whose calls run one after the other, in the order in which they come.

    A batch function with one thread and batches of one is a lock that a deadline cannot break.
    TensorFlow's mutex is none: when a request is stopped that waits for it, it is unlocked
    whoever holds it. (This never merges calls, so none runs under another's deadline.)

    Args:
      name: no two in a process may have the same, whatever models they belong to.
      function: of tensors, which it may get in nested tuples.
      specs: of its arguments.
      results: specs of what it returns.
    """

    def __init__(self, name, function, specs, results):
        self._name, self.results = name, results

        def batch_of_one(*tensors):
            inputs = tf.nest.pack_sequence_as(specs, [tensor[0] for tensor in tensors])
            pairs = zip(tf.nest.flatten(function(*inputs)), tf.nest.flatten(results), strict=True)
            return [tf.ensure_shape(x, spec.shape)[None] for x, spec in pairs]

        self._function = tf.function(batch_of_one, autograph=False).get_concrete_function(
            *(tf.TensorSpec([1, *spec.shape], spec.dtype) for spec in tf.nest.flatten(specs))
        )

    def __call__(self, *inputs):
        """The function of `inputs`, when all earlier calls are over."""
        specs = tf.nest.flatten(self.results)
        outputs = tf.raw_ops.BatchFunction(
            in_tensors=[tensor[None] for tensor in tf.nest.flatten(inputs)],
            captured_tensors=self._function.captured_inputs,
            f=self._function,
            Tout=[spec.dtype for spec in specs],
            num_batch_threads=1,
            max_batch_size=1,
            batch_timeout_micros=0,
            max_enqueued_batches=QUEUE,
            shared_name=self._name,
        )
        for output, spec in zip(outputs, specs, strict=True):
            output.set_shape([1, *spec.shape])
        return tf.nest.pack_sequence_as(self.results, [output[0] for output in outputs])
