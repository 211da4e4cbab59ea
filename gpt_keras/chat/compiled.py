"""A chat template as TensorFlow functions: JSON messages in, prompts or token ids out."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from gpt_keras.chat import clock, learn
from gpt_keras.chat.json_graph import parse_messages
from gpt_keras.chat.refusal import refused_if
from gpt_keras.tokenizers import ragged

# What `str.strip`, and with it Jinja's `trim`, takes for white space.
WHITE_SPACE = (
    r"[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
)
_MARK = b"\xff"  # in no valid UTF-8


@dataclasses.dataclass(frozen=True)
class CompiledTemplate:
    """A chat template in the graph; see `compiler.compile_template`.

    Messages are (B,) string, as `parse_messages` takes them; all methods raise
    tf.errors.InvalidArgumentError where that does, where a role is not one of `form.roles`, where
    a content holds one of `form.words` and where the template does not take a message of one role
    after one of another. The error names row and message.

    Attributes:
      form: what it was compiled to.
      control_tokens: strings that contents may hold as text only.
      refuses: why the form takes fewer messages than the template; "" where it does not.
      now: () float64, seconds since 1970, for dates that the template writes.
    """

    form: learn.Form
    control_tokens: tuple[str, ...] = ()
    refuses: str = ""
    now: Callable[[], tf.Tensor] = tf.timestamp

    def __call__(self, messages: tf.Tensor) -> tf.Tensor:
        """Prompts, (B,) string, that end where the assistant is to begin.

        The same text as `template.render`: control tokens written in a content look like the
        template's own. To tokenize, use `encode`.
        """
        return self._fill_in(*self._parse(messages))

    def encode(self, messages: tf.Tensor, tokenizer) -> tf.RaggedTensor:
        """Token ids of the prompts, (B, None) int32.

        The template's control tokens become their ids. One that is written in a content is text,
        cut off from what stands around it; so no content can open or close a turn.
        Reference: `apply_chat_template(..., sanitize_control_tokens=True)` of `transformers`.

        Args:
          messages: (B,) string.
          tokenizer: see `gpt_keras.tokenizers.Tokenizer`.
        """
        if not self.control_tokens:
            prompts = self(messages)
            return tokenizer.tokenize(prompts)
        pieces, is_text = self.pieces(messages)
        return _tokenize_pieces(pieces, is_text, tokenizer)

    def pieces(self, messages: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
        """The prompts, cut where a content holds a control token.

        Returns:
          (B, None) string that joins to the prompts, and for its P pieces (P,) bool: True for
          control tokens that are to be read as text.
        """
        roles, contents = self._parse(messages)
        # The longest of several that begin at the same place, as a tokenizer would have it.
        tokens = sorted(self.control_tokens, key=len, reverse=True)
        pattern = "|".join(rf"\Q{token}\E" for token in tokens)
        marked = tf.strings.regex_replace(contents.values, pattern, _MARK + rb"\0" + _MARK)
        prompts = self._fill_in(roles, contents.with_values(marked))
        pieces = tf.strings.split(prompts, _MARK)  # text, token, text, ..., text in each row
        place = tf.range(tf.size(pieces.values, tf.int64))
        place -= tf.gather(pieces.row_splits, pieces.value_rowids())
        return pieces, tf.equal(place % 2, 1)

    def _parse(self, messages: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Roles and contents, both (B, None) string, without what an assistant thought."""
        roles, contents = parse_messages(messages)
        texts, bad = contents.values, tf.zeros_like(roles.values, tf.bool)
        for role, words in self.form.words.items():
            pattern = "|".join(rf"\Q{word}\E" for word in words)
            holds = tf.strings.regex_full_match(texts, rf"(?s).*(?:{pattern}).*")
            bad |= (roles.values == role) & holds

        def message() -> tf.Tensor:
            m = tf.argmax(tf.cast(bad, tf.int32))
            row = roles.value_rowids()[m]
            words = [f"`{role}`: {', '.join(words)}" for role, words in self.form.words.items()]
            what = ["the model's chat template does more with words such as in this content ("]
            return _about(row, m - roles.row_splits[row], [*what, "; ".join(words), ")"])

        texts = refused_if(tf.reduce_any(bad), message, texts) if self.form.words else texts
        for role, newlines in self.form.without_thoughts.items():
            pattern = rf"(?s)\A.*{learn.THOUGHT}" + r"\n*" * newlines
            answers = tf.strings.regex_replace(texts, pattern, "", replace_global=False)
            texts = tf.where(roles.values == role, answers, texts)
        return roles, contents.with_values(texts)

    def _fill_in(self, roles: tf.RaggedTensor, contents: tf.RaggedTensor) -> tf.Tensor:
        """Roles and contents, both (B, None) string -> prompts (B,) string."""
        B, role_ids = roles.nrows(), self._role_ids(roles)  # (M,)
        # M messages make M + B pairs of neighbours; message m is the second of pair `second[m]`
        # and the first of the pair after it.
        splits = roles.row_splits + tf.range(B + 1)
        row_of_pair = ragged.row_ids(splits)  # (M + B,)
        second = tf.range(tf.size(role_ids, tf.int64)) + roles.value_rowids()  # (M,)
        border = len(self.form.roles)  # the number for the beginning and the end
        ends = tf.fill([tf.size(row_of_pair)], border)
        before = tf.tensor_scatter_nd_update(ends, second[:, tf.newaxis] + 1, role_ids)
        after = tf.tensor_scatter_nd_update(ends, second[:, tf.newaxis], role_ids)
        pair = before * (border + 1) + after  # (M + B,), place in `_pairs`

        texts = self._strip(contents.values, tf.gather(pair, second), tf.gather(pair, second + 1))
        texts = tf.tensor_scatter_nd_update(
            tf.fill([tf.size(pair)], ""), second[:, tf.newaxis], texts
        )  # (M + B,)

        pairs = self._pairs()
        entries = [(p, blank) for blank in (False, True) for p in pairs]
        between = [self.form.text(*entry) for entry in entries]
        entry = pair + len(pairs) * tf.cast(tf.equal(texts, ""), tf.int32)
        bad = tf.gather([text is None for text in between], entry)

        def message() -> tf.Tensor:
            what = tf.constant([_refusal(p, p in self.form.texts) for p, _ in entries])
            p = tf.argmax(tf.cast(bad, tf.int32))
            row = row_of_pair[p]
            last = tf.maximum(splits[row + 1] - splits[row] - 2, 0)
            return _about(row, tf.minimum(p - splits[row], last), [what[entry[p]]])

        entry = refused_if(tf.reduce_any(bad), message, entry)
        forms = set().union(*(clock.formats(text or "") for text in between))
        between = tf.constant([text or "" for text in between])
        between = clock.fill_in(between, forms, self.now()) if forms else between
        between = tf.gather(between, entry)
        return tf.strings.unsorted_segment_join(tf.strings.join([between, texts]), row_of_pair, B)

    def _strip(self, texts: tf.Tensor, before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
        """Contents (M,) string, by the pairs (M,) int32 they are the second and the first of."""
        for strips, pair, pattern in (
            (self.form.stripped_left, before, rf"\A{WHITE_SPACE}+"),
            (self.form.newlines_left, before, r"\A\n+"),
            (self.form.stripped_right, after, rf"{WHITE_SPACE}+\z"),
        ):
            if strips:
                stripped = tf.strings.regex_replace(texts, pattern, "", replace_global=False)
                strips = tf.gather([p in strips for p in self._pairs()], pair)
                texts = tf.where(strips, stripped, texts)
        return texts

    def _pairs(self) -> list[learn.Pair]:
        return list(itertools.product([*self.form.roles, None], repeat=2))

    def _role_ids(self, roles: tf.RaggedTensor) -> tf.Tensor:
        """Roles (B, None) string -> their numbers (M,) int32."""
        is_role = tf.equal(roles.values[:, tf.newaxis], self.form.roles)  # (M, R)
        unknown = ~tf.reduce_any(is_role, axis=1)

        def message() -> tf.Tensor:
            m = tf.argmax(tf.cast(unknown, tf.int32))
            row = roles.value_rowids()[m]
            wanted = ", ".join(f"`{role}`" for role in self.form.roles)
            what = ["the role `", roles.values[m], f"` is not one of {wanted}"]
            return _about(row, m - roles.row_splits[row], what)

        role_ids = tf.argmax(tf.cast(is_role, tf.int32), axis=1, output_type=tf.int32)
        return refused_if(tf.reduce_any(unknown), message, role_ids)


def _about(row: tf.Tensor, place: tf.Tensor, what: Sequence) -> tf.Tensor:
    numbers = [tf.strings.as_string(number) for number in (row, place)]
    return tf.strings.join(["messages of row ", numbers[0], ", message ", numbers[1], ": ", *what])


def _refusal(pair: learn.Pair, unless_blank: bool) -> str:
    """What to say where the form has no text for a pair, or none where the second is blank."""
    first, second = pair
    if pair == (None, None):
        return "no messages"
    if second is None:
        return f"`{first}` cannot be the last in the model's chat template"
    what = f"a blank `{second}`" if unless_blank else f"`{second}`"
    place = "be the first" if first is None else f"follow `{first}`"
    return f"{what} cannot {place} in the model's chat template"


def _tokenize_pieces(pieces: tf.RaggedTensor, is_text: tf.Tensor, tokenizer) -> tf.RaggedTensor:
    """`CompiledTemplate.pieces` -> token ids (B, None) int32."""
    written = tokenizer.tokenize(tf.boolean_mask(pieces.values, ~is_text))
    as_text = tokenizer.tokenize(tf.boolean_mask(pieces.values, is_text), allow_special=False)
    # Back into their order, and the ids of all pieces of a row into one.
    nth = tf.cumsum(tf.cast(is_text, tf.int64))
    place = tf.range(tf.size(is_text, tf.int64))
    source = tf.where(is_text, written.nrows() + nth - 1, place - nth)
    ids = tf.gather(tf.concat([written, as_text], axis=0), source)  # (P, None)
    return tf.RaggedTensor.from_row_splits(
        ids.values, tf.gather(ids.row_splits, pieces.row_splits), validate=False
    )
