"""Turns: calls of a function that run one at a time, whichever requests they are of."""

import tensorflow as tf

# TensorFlow's mark of functions that are optimized when they first run, not with their callers.
LATER = "_tf_data_function"
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
            inputs = tf.nest.pack_sequence_as(specs, [tf.squeeze(x, 0) for x in tensors])
            pairs = zip(tf.nest.flatten(function(*inputs)), tf.nest.flatten(results), strict=True)
            return [tf.expand_dims(tf.ensure_shape(x, spec.shape), 0) for x, spec in pairs]

        self._function = tf.function(batch_of_one, autograph=False).get_concrete_function(
            *(tf.TensorSpec([1, *spec.shape], spec.dtype) for spec in tf.nest.flatten(specs))
        )

    def __call__(self, *inputs):
        """The function of `inputs`, when all earlier calls are over."""
        specs = tf.nest.flatten(self.results)
        outputs = tf.raw_ops.BatchFunction(
            in_tensors=[tf.expand_dims(x, 0) for x in tf.nest.flatten(inputs)],
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
        return tf.nest.pack_sequence_as(self.results, [tf.squeeze(x, 0) for x in outputs])


def optimize_later(saved_model):
    """Marks what turns call: TensorFlow is to optimize it once, when a turn first runs.

    The function of a turn is taken as one graph then, with all that it calls. Unmarked, all of it
    is optimized function by function before that, for each signature, and to no avail.
    """
    for meta_graph in saved_model.meta_graphs:
        library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        nodes = [node for f in library.values() for node in f.node_def]
        found = [node.attr["f"].func.name for node in nodes if node.op == "BatchFunction"]
        while found:
            function = library[found.pop()]
            if LATER not in function.attr:
                function.attr[LATER].b = True
                attrs = [attr for node in function.node_def for attr in node.attr.values()]
                found += [attr.func.name for attr in attrs if attr.HasField("func")]
                found += [f.name for attr in attrs for f in attr.list.func]
