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
    """Labels of a text with their probabilities, best first."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def score(self) -> float:
        return self.scores[0]


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The state of a version: START, LOADING, AVAILABLE, UNLOADING or END; and what went wrong."""

    version: int
    state: str
    error: str
