import tensorflow as tf

from export.apart import apart
from export.memory import Memory


def test_a_branch_is_one_op_and_gives_the_same():
    memory = Memory("apart", [], tf.float32)

    def work(x, pair):
        for _ in range(20):
            x = tf.sin(x) + pair[0]
        with tf.control_dependencies([memory.assign(x)]):
            return x, (pair[1], tf.identity(x))

    @tf.function(input_signature=[tf.TensorSpec([]), tf.TensorSpec([], tf.bool)])
    def either(x, taken):
        pair = (x, 2.0 * x)
        return tf.cond(taken, lambda: apart(work, x, pair), lambda: (x, (x, x)))

    assert [float(x) for x in tf.nest.flatten(either(0.5, False))] == [0.5] * 3
    assert float(memory.read()) == 0.0
    expected = [float(x) for x in tf.nest.flatten(work(tf.constant(0.5), (0.5, 1.0)))]
    memory.assign(tf.constant(0.0))
    assert [float(x) for x in tf.nest.flatten(either(0.5, True))] == expected
    assert float(memory.read()) == expected[0]
    library = either.get_concrete_function().graph.as_graph_def().library.function
    (call,) = (n for f in library for n in f.node_def if n.op == "StatefulPartitionedCall")
    (called,) = (f for f in library if f.signature.name == call.attr["f"].func.name)
    assert [f for f in library if "_noinline" in f.attr] == [called]
    assert called.attr["_noinline"].b
    branch = next(f for f in library if call in f.node_def)
    assert not any(n.op == "Sin" for n in branch.node_def)
