"""What `strftime_now` writes, as TensorFlow ops: the date of the day a prompt is made, in UTC."""

import re

import tensorflow as tf

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_DAYS = ("Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday")  # 1970-01-01
_DAY = 24 * 60 * 60  # seconds


class Marks:
    """A clock for a template that writes, instead of a date, in which format it asks for one."""

    @staticmethod
    def strftime(form: str) -> str:
        return f"\ue000{form}\ue001"


_MARK = re.compile("\ue000([^\ue001]*)\ue001")


def formats(text: str) -> set[str]:
    """The formats that stand in a text which was rendered by `Marks`.

    Raises:
      ValueError: one that is not supported.
    """
    found = set(_MARK.findall(text))
    for form in found:
        unknown = [part for part in re.findall("%-?.?", form) if part not in _DIRECTIVES]
        if unknown:
            raise ValueError(
                f"The chat template cannot be compiled: strftime_now({form!r}): {unknown[0]} is "
                f"unsupported; supported are {', '.join(_DIRECTIVES)}"
            )
    return found


def fill_in(texts: tf.Tensor, forms, seconds: tf.Tensor) -> tf.Tensor:
    """Texts (T,) string with the dates of these formats at `seconds` () float64 since 1970."""
    for form in sorted(forms):
        texts = tf.strings.regex_replace(
            texts, rf"\Q{Marks.strftime(form)}\E", strftime(form, seconds)
        )
    return texts


def strftime(form: str, seconds: tf.Tensor) -> tf.Tensor:
    """() string, as `datetime.strftime` has it, with English names."""
    seconds = tf.cast(tf.floor(seconds), tf.int64)
    days, rest = seconds // _DAY, seconds % _DAY
    fields = _date(days) | {"days": days, "hour": rest // 3600, "minute": rest // 60 % 60}
    fields["second"] = rest % 60
    parts = re.split("(%-?.)", form)
    made = [_DIRECTIVES[part](fields) if i % 2 else part for i, part in enumerate(parts)]
    return tf.strings.join([part for part in made if not isinstance(part, str) or part])


def _date(days):
    """Year, month and day, all () int64, of days since 1970, in the Gregorian calendar.

    Years are counted from March, so that a leap day is the last of its year. Source: "chrono-
    Compatible Low-Level Date Algorithms", https://howardhinnant.github.io/date_algorithms.html.
    """
    days = days + 719468  # since 0000-03-01
    era, day_of_era = days // 146097, days % 146097  # 400 years each
    year = day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096
    year = year // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    march = (5 * day_of_year + 2) // 153  # months since March
    month = tf.where(march < 10, march + 3, march - 9)
    year = year + 400 * era + tf.cast(month <= 2, tf.int64)
    return {"year": year, "month": month, "day": day_of_year - (153 * march + 2) // 5 + 1}


def _number(name, width=2, modulo=10**9):
    def text(fields):
        return tf.strings.as_string(fields[name] % modulo, width=width, fill="0")

    return text


def _name(name, names, first=0):
    return lambda fields: tf.gather(names, (fields[name] - first) % len(names))


_DIRECTIVES = {
    "%Y": _number("year", 4), "%y": _number("year", modulo=100), "%m": _number("month"),
    "%d": _number("day"), "%-d": _number("day", 1), "%-m": _number("month", 1),
    "%B": _name("month", _MONTHS, 1), "%b": _name("month", [m[:3] for m in _MONTHS], 1),
    "%A": _name("days", _DAYS), "%a": _name("days", [d[:3] for d in _DAYS]),
    "%H": _number("hour"), "%M": _number("minute"), "%S": _number("second"),
    "%%": lambda _: "%",
}  # fmt: skip
