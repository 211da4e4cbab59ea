"""What calls of a model give."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Attributes:
      text: valid UTF-8.
      text_bytes: the same as the tokens have it; the end may be half a character.
      finish_reason: "stop" or "length".
      prompt_tokens, num_tokens: read and written.
      logprob: of all that was written, natural logarithm.
      token_logprobs: of each token; empty from a model that does not tell.
      top_logprobs: for each token, ids of the likeliest tokens -> log-probability; empty unless
        asked for by the option `logprobs`.
    """

    text: str
    text_bytes: bytes
    finish_reason: str
    prompt_tokens: int
    num_tokens: int
    logprob: float
    token_logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[dict[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a text is: the logarithm of its probability, and the tokens it is a sum over."""

    logprob: float
    num_tokens: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """What of a context answers a question, where it stands in characters, and how sure that is.

    No answer is an empty text at -1.
    """

    text: str
    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True)
class Classification:
    """Labels of a text with their probabilities, best first.

    Attributes:
      num_labels: how many of them the text has, of a model of several labels a text; else None.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    num_labels: int | None = None

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def score(self) -> float:
        return self.scores[0]


@dataclasses.dataclass(frozen=True)
class Span:
    """A name or the like: what it is, its text, its place in characters, and how sure that is."""

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True)
class Relation:
    """What two entities of a text, by their numbers from 0, have to do with each other."""

    head: int
    tail: int
    label: str
    score: float
    head_text: str
    tail_text: str


@dataclasses.dataclass(frozen=True)
class Filling:
    """A token in place of the mask, its probability, and the text with it."""

    token: str
    score: float
    text: str


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version: START, LOADING, AVAILABLE, UNLOADING or END; and what went wrong."""

    version: int
    state: str
    error: str


def decoded(value):
    """Nested lists and dicts with strings in place of bytes."""
    if isinstance(value, dict):
        return {name: decoded(x) for name, x in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list | bytes):
        return [decoded(x) for x in value]
    return value.decode() if isinstance(value, bytes) else value


def rows_of(kind, answer, sizes) -> list[list]:
    """Objects of a class: of each row as many as `sizes` says, of its (B, n) outputs the first.

    An output is called as the field, in the plural.
    """
    columns = [answer[f"{field.name}s"] for field in dataclasses.fields(kind)]
    return [
        [kind(*values) for values in zip(*(column[:n] for column in row), strict=True)]
        for n, *row in zip(sizes, *columns, strict=True)
    ]


def of_tokens(num_tokens, token_logprobs, top_logprobs, top_tokens) -> dict[str, list[tuple]]:
    """The fields of `Generation` on tokens, without the padding; lists with one entry a row."""
    logprobs = [tuple(row[:n]) for n, row in zip(num_tokens, token_logprobs, strict=True)]
    tops = [
        tuple(
            {token: value for token, value in zip(*pair, strict=True) if token >= 0}
            for pair in zip(ids[:n], values[:n], strict=True)
            if pair[0] and pair[0][0] >= 0
        )
        for n, ids, values in zip(num_tokens, top_tokens, top_logprobs, strict=True)
    ]
    return {"token_logprobs": logprobs, "top_logprobs": tops}
