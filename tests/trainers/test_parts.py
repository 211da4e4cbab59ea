import gpt_keras
from trainers.parts import layer_rates, parts_of, unfreeze_starts

LABELS = ("a", "b", "c")


def test_layers_learn_the_less_the_lower_they_are(config):
    for tied in (True, False):
        task = gpt_keras.CausalLM(config.replace(tie_embeddings=tied))
        variables = task.trainable_variables
        rates = layer_rates(task, variables, 0.5)
        by_layer = {}
        for variable, rate in zip(variables, rates, strict=True):
            name = variable.path.split("/")[0 if "embedding" not in variable.path else -1]
            by_layer.setdefault(name, set()).add(rate)
        expected = {"table": {0.125}, "block_0": {0.25}, "block_1": {0.5}, "final_norm": {1.0}}
        assert by_layer == expected | ({} if tied else {"head": {1.0}})
    task = gpt_keras.SequenceClassifier(config.replace(id2label=LABELS))
    assert layer_rates(task, [task.score.kernel], 0.5) == [1.0]


def test_each_variable_has_its_part(config):
    task = gpt_keras.CausalLM(config.replace(tie_embeddings=True))
    names, part_of = parts_of(task, task.trainable_variables)
    assert names == ["embedding", "block_0", "block_1", "head"]
    for variable, part in zip(task.trainable_variables, part_of, strict=True):
        layer = variable.path.split("/")[-2 if "table" in variable.path else 0]
        assert {"final_norm": "head"}.get(layer, layer) == names[part]


def test_parts_of_what_is_trained_alone(config):
    task = gpt_keras.SequenceClassifier(config.replace(id2label=LABELS))
    variables = [*task.backbone.blocks[1].trainable_variables, task.score.kernel]
    assert parts_of(task, variables) == (["block_1", "head"], [0] * (len(variables) - 1) + [1])


def test_layers_begin_to_learn_from_the_top(config):
    task, found = gpt_keras.SequenceClassifier(config.replace(id2label=LABELS)), {}
    variables = task.trainable_variables
    for variable, start in zip(variables, unfreeze_starts(task, variables, 5), strict=True):
        name = variable.path.split("/")[0 if "embedding" not in variable.path else -1]
        found.setdefault(name.removeprefix("sequence_classifier"), set()).add(start)
    expected = {"table": {15}, "block_0": {10}, "block_1": {5}, "final_norm": {0}, "score": {0}}
    assert found == expected
