"""The options of a generation: dtype, default and range of each, the same in Python and served."""

import dataclasses

import numpy as np

LOGPROBS = 20  # most alternatives of a token that are told
INT32_MAX = int(np.iinfo(np.int32).max)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option; a batch has a value of it for each row.

    Attributes:
      name: of the field of `generation.GenerationOptions`.
      dtype: of its values, NumPy's name.
      default: where nothing is said.
      low, high: smallest and largest value allowed; None for no limit.
      above: the value must be greater than this; None for no such limit.
      note: what a special value means.
    """

    name: str
    dtype: str
    default: float
    low: float | None = None
    high: float | None = None
    above: float | None = None
    note: str = ""

    def allows(self, values):
        """Elementwise, for NumPy arrays and for tensors; a NaN is in no range."""
        good = values == values
        if self.low is not None:
            good &= values >= self.low
        if self.high is not None:
            good &= values <= self.high
        if self.above is not None:
            good &= values > self.above
        return good

    def range_text(self) -> str:
        """The range in words, such as "above 0 and at most 1 (1 is off)"."""
        limits = (("above", self.above), ("at least", self.low), ("at most", self.high))
        text = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
        return f"{text} ({self.note})" if self.note else text

    def checked(self, value) -> np.ndarray:
        """A scalar or list as an array of the option's dtype.

        Raises:
          ValueError: not numbers of this dtype, or out of range; names the option.
        """
        array = np.asarray(value)
        whole = np.issubdtype(self.dtype, np.integer)
        wanted = np.integer if whole else np.number
        if array.ndim > 1 or not (np.issubdtype(array.dtype, wanted) or array.size == 0):
            kind = "whole numbers" if whole else "numbers"
            raise ValueError(f"{self.name}={value!r}: expected {kind}, one or one a row")
        if not np.all(self.allows(array)):
            raise ValueError(f"{self.name}={value!r}: expected {self.range_text()}")
        return array.astype(self.dtype)


def generation_options(context: int, **defaults) -> tuple[Option, ...]:
    """The options of `generation.GenerationOptions`, in its order.

    Args:
      context: longest text of the model, in tokens.
      **defaults: name of an option -> its default; the others keep theirs.

    Raises:
      ValueError: an unknown option, or a default that is out of range.
    """
    known = (
        Option("max_new_tokens", "int32", min(64, context), low=1, high=context),
        Option("temperature", "float32", 0.0, low=0, high=100, note="0 takes the best token"),
        Option("top_k", "int32", 0, low=0, high=INT32_MAX, note="0 is off"),
        Option("top_p", "float32", 1.0, above=0, high=1, note="1 is off"),
        Option("min_p", "float32", 0.0, low=0, high=1, note="0 is off"),
        Option("repetition_penalty", "float32", 1.0, low=0.01, high=100, note="1 is off"),
        Option("presence_penalty", "float32", 0.0, low=-2, high=2, note="0 is off"),
        Option("frequency_penalty", "float32", 0.0, low=-2, high=2, note="0 is off"),
        Option("seed", "int64", -1, note="a negative one is drawn anew"),
        Option("logprobs", "int32", 0, low=0, high=LOGPROBS, note="0 is off"),
    )
    names = [option.name for option in known]
    for name in defaults:
        if name not in names:
            raise ValueError(f"{name}: no such option; there are {', '.join(names)}")
    return tuple(
        dataclasses.replace(option, default=option.checked(defaults[option.name]).item())
        if option.name in defaults
        else option
        for option in known
    )
