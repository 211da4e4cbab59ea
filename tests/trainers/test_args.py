"""Doc of a program, which --help shows."""

import re

import pytest
import tensorflow as tf
import yaml
from absl import flags as absl_flags
from hypothesis import given
from hypothesis import strategies as st

from trainers import args


def plain_flags(flags):
    """Plain things."""
    absl_flags.DEFINE_integer("max_steps", None, "steps", 1, flag_values=flags)
    absl_flags.DEFINE_float("learning_rate", 5e-5, "peak, per step", flag_values=flags)
    absl_flags.DEFINE_bool("resume", False, "go on", flag_values=flags)
    absl_flags.DEFINE_string("note", "", "words", flag_values=flags)
    absl_flags.DEFINE_enum("schedule", "cosine", ["cosine", "linear"], "kind", flag_values=flags)
    absl_flags.DEFINE_list("labels", [], "names", flag_values=flags)
    absl_flags.DEFINE_multi_string("also", [], "more", flag_values=flags)


def parse(*arguments):
    return args.parse([plain_flags], ["program", *arguments])


def config(tmp_path, text, name="x.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return f"--config_file={path}"


def test_flags_over_later_file_over_earlier_file_over_default(tmp_path):
    first = config(
        tmp_path, "max_steps: 1\nlearning_rate: 1e-3\nnote: first\nalso: [a, b]", "1.yaml"
    )
    second = config(tmp_path, "learning_rate: 2\nnote: second\nresume: yes", "2.yaml")
    flags = parse("--note=given", first, second, "--also=c")
    assert (flags.max_steps, flags.learning_rate, flags.note) == (1, 2.0, "given")
    assert (flags.resume, flags.schedule, flags.also) == (True, "cosine", ["c"])
    assert parse(first).also == ["a", "b"]


def test_null_in_a_later_file_takes_the_value_back(tmp_path):
    first = config(tmp_path, "max_steps: 7\nnote: x", "1.yaml")
    second = config(tmp_path, "max_steps: null\nnote: 'null'", "2.yaml")
    flags = parse(first, second)
    assert (flags.max_steps, flags.note) == (None, "null")


def test_list_items_may_hold_commas(tmp_path):
    assert parse(config(tmp_path, 'labels: [a, "b,c", \'d"e\']')).labels == ["a", "b,c", 'd"e']
    assert parse(config(tmp_path, "labels: []")).labels == []
    assert parse(config(tmp_path, "labels: a,b")).labels == ["a", "b"]
    assert parse(config(tmp_path, "")).labels == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_stepz: 3", r"x\.yaml:1: unknown key 'max_stepz'; did you mean 'max_steps'\?"),
        ("note: a\n\nmax_steps: many", r"x\.yaml:3: max_steps: 'many': .*int"),
        ("max_steps: 1.5", r"x\.yaml:1: max_steps: '1.5'"),
        ("max_steps: 0", r"max_steps: '0': 0 is not"),
        ("schedule: cosin", r"schedule: 'cosin': .*cosine"),
        ("resume: perhaps", r"resume: 'perhaps'"),
        ("learning_rate: [1, 2]", r"x\.yaml:1: learning_rate: give one value, not a list"),
        ("labels: [[a], b]", r"labels: give one value or a list"),
        ("note: {a: b}", r"note: give one value or a list"),
        ("note: a\nnote: b", r"x\.yaml:2: key 'note' again, which .*x\.yaml:1 has"),
        ("config_file: y.yaml", r"unknown key 'config_file'"),
        ("[a, b]: c", r"unknown key"),
        ("- note", r"write one `flag: value` a line"),
        ("note: [a", r"x\.yaml:1: not YAML: expected"),
    ],
)
def test_config_file_errors_name_file_and_key(tmp_path, text, message):
    with pytest.raises(args.UsageError, match=message):
        parse(config(tmp_path, text))


def test_config_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(args.UsageError, match=r"--config_file=/none\.yaml: No such file"):
        parse("--config_file=/none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"note: \xff\xfe")
    with pytest.raises(args.UsageError, match=r"x\.yaml: not YAML"):
        parse(f"--config_file={tmp_path / 'x.yaml'}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--max_step=3", "max_step.*Did you mean.*max_steps"),
        ("--max_steps=x", "--max_steps=x.*int"),
        ("--schedule=step", "--schedule=step.*cosine"),
        ("stray", "'stray' is no flag"),
        ("--note", "Missing value for flag --note"),
    ],
)
def test_misused_flags(argument, message):
    with pytest.raises(args.UsageError, match=message):
        parse(argument)


# Text that YAML itself can carry: no control characters, no lone surrogates.
_TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff\ufffe\uffff"),
    max_size=20,
)


@given(
    note=_TEXT,
    labels=st.lists(_TEXT.filter(lambda text: text == text.strip() != ""), max_size=4),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.none() | st.integers(1, 2**40),
)
def test_written_config_reads_back_the_same(tmp_path_factory, note, labels, rate, steps):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    flags = parse()
    flags.note, flags.labels, flags.learning_rate, flags.max_steps = note, labels, rate, steps
    flags.also = labels
    args.write_config(flags, path)
    again = parse(f"--config_file={path}")
    assert {name: again[name].value for name in again if name != "config_file"} == {
        name: flags[name].value for name in flags if name != "config_file"
    }


def test_written_config_is_yaml_in_the_order_of_definition(tmp_path):
    args.write_config(parse("--labels=a,b"), tmp_path / "c.yaml")
    written = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert list(written) == [
        *("max_steps", "learning_rate", "resume", "note", "schedule", "labels", "also")
    ]
    assert written["labels"] == ["a", "b"]
    assert written["max_steps"] is None


def status(main, *arguments):
    return args.exit_status(main, [plain_flags], ["program", *arguments])


def test_done_is_status_0():
    seen = []
    assert status(lambda flags: seen.append(flags.max_steps), "--max_steps=3") == 0
    assert seen == [3]


def test_help_shows_doc_groups_units_and_defaults(capsys):
    assert status(test_done_is_status_0, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith("Doc of a program")
    assert "\nPlain things:\n" in out
    assert re.search(r"--learning_rate\n\s+peak, per step \(default '?5e-05", out)
    assert "--[no]resume" in out
    assert "<cosine|linear>" in out


def fail(error):
    def main(flags):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("batch 5\n  too large"), 1, "error: batch 5 too large"),
        (FileNotFoundError(2, "No such file", "a.bin"), 1, "error: a.bin: No such file"),
        (OSError(28, "No space left on device"), 1, "error: .*No space left"),
        (args.UsageError("--a and --b"), 2, "error: --a and --b"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_users_are_one_line(capsys, error, code, line):
    assert status(fail(error)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(line, captured.err)


def test_out_of_memory_is_one_line(capsys):
    assert status(lambda flags: tf.zeros((1 << 24, 1 << 24))) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r": error: OOM when allocating tensor with shape\[16777216,.*--dry_run", line)


@pytest.mark.parametrize(
    "bug",
    [
        lambda flags: int("not a number"),
        lambda flags: [].remove(1),
        lambda flags: yaml.safe_load("a: b").index(1),
        lambda flags: (lambda a, b: None)(*()),
        lambda flags: re.compile("("),
    ],
)
def test_bugs_keep_their_traceback(capsys, bug):
    try:
        code = status(bug)
    except Exception:
        return  # Python prints the traceback
    assert code == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_run_exits_with_the_status():
    with pytest.raises(SystemExit) as exit_info:
        args.run(fail(ValueError("x")), [plain_flags], ["program"])
    assert exit_info.value.code == 1


def test_two_programs_in_one_process_share_no_flags():
    assert parse("--max_steps=3").max_steps == 3
    assert parse().max_steps is None
