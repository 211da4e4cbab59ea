import keras
import numpy as np

from trainers.optimizer import AdamW


def test_update_is_that_of_the_paper_and_spares_vectors():
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(3, 2)), rng.normal(size=3)
    variables = [keras.Variable(x.astype("float32")) for x in (matrix, vector)]
    optimizer = AdamW(variables, 0.1, weight_decay=0.5, beta_1=0.8, beta_2=0.9)
    means, squares = [np.zeros((3, 2)), np.zeros(3)], [np.zeros((3, 2)), np.zeros(3)]
    expected = [matrix, vector]
    for t in range(1, 4):
        gradients = [rng.normal(size=x.shape) for x in expected]
        optimizer.apply([keras.ops.cast(g, "float32") for g in gradients], variables)
        for i, (gradient, decay) in enumerate(zip(gradients, (0.5, 0.0), strict=True)):
            means[i] = 0.8 * means[i] + 0.2 * gradient
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            mean, square = means[i] / (1 - 0.8**t), squares[i] / (1 - 0.9**t)
            expected[i] = expected[i] * (1 - 0.1 * decay) - 0.1 * mean / np.sqrt(square)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)
