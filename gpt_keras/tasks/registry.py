"""Tasks on whole texts, by the names that programs and config.json know them by."""

from gpt_keras.tasks.masked_lm import MaskedLM
from gpt_keras.tasks.relation_extractor import RelationExtractor
from gpt_keras.tasks.sequence_classifier import SequenceClassifier
from gpt_keras.tasks.sequence_regressor import SequenceRegressor
from gpt_keras.tasks.text_embedder import TextEmbedder
from gpt_keras.tasks.text_task import TextTask
from gpt_keras.tasks.token_classifier import TokenClassifier

TASKS: dict[str, type[TextTask]] = {
    task.NAME: task
    for task in (
        SequenceClassifier,
        SequenceRegressor,
        TokenClassifier,
        RelationExtractor,
        TextEmbedder,
        MaskedLM,
    )
}
ALIASES = {"ranking": TextEmbedder.NAME}  # other names that programs know them by
