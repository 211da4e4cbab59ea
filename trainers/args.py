"""Args: flags, config files under them, and how a program ends.

Each program names its groups of flags and hands them to `run`:

    if __name__ == "__main__":
        args.run(main, [training_flags, optimizer_flags])

A group is a function that defines flags on an `absl.flags.FlagValues`; its docstring is its title
in `--help`. Nothing is global, so programs can be called in one process.
"""

import csv
import difflib
import dis
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

import tensorflow as tf
import yaml
from absl import flags as absl_flags

from trainers.files import replacing

FlagValues = absl_flags.FlagValues
FlagGroup = Callable[[FlagValues], None]

FAILED, MISUSED, STOPPED, INTERRUPTED = 1, 2, os.EX_TEMPFAIL, 130
OUR_PACKAGES = {"gpt_keras", "trainers"}


class UsageError(ValueError):
    """Flags that make no sense, alone or together: exit status 2."""


class Stopped(Exception):  # noqa: N818, it is no error
    """A signal ended the run between two steps, and it can be resumed: exit status 75."""


def run(
    main: Callable[[FlagValues], None],
    groups: Sequence[FlagGroup],
    argv: Sequence[str] | None = None,
) -> None:
    """Parses the command line, calls `main(flags)` and exits.

    Status 0: done. 1: failed; what a user can put right (OSError, too little memory, or a
    ValueError that our code raises) is one line on stderr, anything else a traceback. 2: flags
    misused. 75 (EX_TEMPFAIL): a signal ended a run that can be resumed. 130: interrupted.
    """
    argv = list(sys.argv if argv is None else argv)
    sys.exit(exit_status(main, groups, argv))


def exit_status(main, groups: Sequence[FlagGroup], argv: Sequence[str]) -> int:
    """As `run`, but returns the exit status."""
    program = _program_name(main, argv)
    try:
        flags = parse(groups, argv)
        if flags is None:
            print(help_text(main, groups, program))
            return 0
        main(flags)
    except UsageError as error:
        print(f"{program}: error: {_one_line(error)} (--help lists the flags)", file=sys.stderr)
        return MISUSED
    except Stopped as error:
        print(f"{program}: {_one_line(error)}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        name = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"{program}: error: {_one_line(name)}", file=sys.stderr)
        return FAILED
    except tf.errors.ResourceExhaustedError as error:
        what = error.message.rpartition("}} ")[2].partition(" on /job:")[0]
        print(
            f"{program}: error: {_one_line(what)[:200]}; take a smaller model or batches that "
            "are smaller (--dry_run of a trainer tells what a run needs)",
            file=sys.stderr,
        )
        return FAILED
    except tf.errors.OpError as error:
        _, aborted, reason = error.message.rpartition("Collective ops is aborted by: ")
        if not aborted:
            raise
        print(
            f"{program}: error: another worker has ended or is out of reach; --resume continues "
            f"from the last checkpoint: {_one_line(reason)[:200]}",
            file=sys.stderr,
        )
        return FAILED
    except ValueError as error:
        if not _is_for_users(error, OUR_PACKAGES | {main.__module__.split(".")[0]}):
            traceback.print_exc()
            return FAILED
        print(f"{program}: error: {_one_line(error)}", file=sys.stderr)
        return FAILED
    return 0


def parse(groups: Sequence[FlagGroup], argv: Sequence[str]) -> FlagValues | None:
    """Flags of a command line; None if it asks for help.

    Files of `--config_file` lie under the flags given on the command line, later files over
    earlier ones.

    Args:
      groups: define the flags.
      argv: program name and arguments.

    Raises:
      UsageError: unknown flag or key (the closest match is named), bad value, stray argument.
    """
    flags = define(groups)
    arguments = list(argv[1:])
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(arguments):
        return None
    try:
        config = _read_configs(_config_files(argv), flags)
        given = {argument.lstrip("-").split("=")[0] for argument in arguments}
        under = [
            f"--{key}={text}"
            for key, texts in config.items()
            for text in texts
            if key not in given  # matters to repeatable flags, which would collect both
        ]
        stray = flags([argv[0], *under, *arguments])
    except absl_flags.Error as error:
        raise UsageError(str(error)) from error
    if len(stray) > 1:
        raise UsageError(f"{stray[1]!r} is no flag; flags are written --name=value")
    return flags


def define(groups: Sequence[FlagGroup]) -> FlagValues:
    """Flags with their default values."""
    flags = FlagValues()
    _config_flag(flags)
    for group in groups:
        group(flags)
    return flags


def _config_flag(flags: FlagValues) -> None:
    """Config files"""
    absl_flags.DEFINE_multi_string(
        "config_file",
        [],
        "YAML file of flag names and values, which lie under the flags given here; repeatable, "
        "later files over earlier ones",
        flag_values=flags,
    )


def _config_files(argv: Sequence[str]) -> list[str]:
    flags = FlagValues()
    _config_flag(flags)
    flags(list(argv), known_only=True)
    return flags.config_file


def _read_configs(paths: Sequence[str], flags: FlagValues) -> dict[str, list[str]]:
    """Flag name -> values as they would stand on the command line."""
    config: dict[str, list[str]] = {}
    for path in paths:
        for where, key, node in _read_config(path):
            if key not in flags or key == "config_file":
                close = difflib.get_close_matches(key, set(flags) - {"config_file"}, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise UsageError(f"{where}: unknown key {key!r}{hint}")
            if node.tag == "tag:yaml.org,2002:null":  # back to the default
                config.pop(key, None)
                continue
            texts = _config_texts(f"{where}: {key}", node, flags[key])
            for text in texts:
                try:
                    flags[key].parser.parse(text)
                except (ValueError, TypeError) as error:
                    raise UsageError(f"{where}: {key}: {text!r}: {error.args[0]}") from error
            config[key] = texts
    return config


def _read_config(path: str) -> list[tuple[str, str, yaml.Node]]:
    """(file:line, key, value) of each entry of a YAML mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"--config_file={path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise UsageError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{path}: write one `flag: value` a line")
    entries, seen = [], {}
    for key, value in root.value:
        where, name = f"{path}:{key.start_mark.line + 1}", str(key.value)
        if name in seen:
            raise UsageError(f"{where}: key {name!r} again, which {seen[name]} has already")
        seen[name] = where
        entries.append((where, name, value))
    return entries


def _config_texts(where: str, node: yaml.Node, flag: absl_flags.Flag) -> list[str]:
    """The value as it is written; a list as one comma list, or as several values of the flag."""
    if flag.boolean and node.tag == "tag:yaml.org,2002:bool":  # yes, no, on, off as well
        return [str(yaml.SafeLoader.bool_values[node.value.lower()])]
    if isinstance(node, yaml.ScalarNode):
        return [node.value]
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(item, yaml.ScalarNode) for item in items):
        raise UsageError(f"{where}: give one value or a list of them")
    texts = [item.value for item in items]
    if isinstance(flag, absl_flags.MultiFlag):
        return texts
    if not isinstance(flag.parser, absl_flags.ListParser):
        raise UsageError(f"{where}: give one value, not a list")
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return [line.getvalue()]


def write_config(flags: FlagValues, path: str | os.PathLike) -> None:
    """Writes the values of all flags as YAML, which `--config_file` reads back."""
    with replacing(path) as file:
        yaml.safe_dump(flag_values(flags), file, sort_keys=False, allow_unicode=True)


def require(flags: FlagValues, *names: str) -> None:
    """Raises UsageError for the first of these flags that has no value; says what it takes."""
    for name in names:
        if not flags[name].value:
            what = " ".join(re.split("[;.] ", flags[name].help)[0].split())
            raise UsageError(f"--{name} is missing; give {what}")


def flag_values(flags: FlagValues) -> dict:
    """Name -> value of all flags, after config files."""
    return {name: flags[name].value for name in _names(flags) if name != "config_file"}


def help_text(main, groups: Sequence[FlagGroup], program: str) -> str:
    """What `--help` prints: flags by group, with units and defaults."""
    module = sys.modules.get(main.__module__)
    lines = [
        (module.__doc__ or "").strip() if module else "",
        "",
        f"Usage: {program} [--flag=value ...]",
    ]
    flags = FlagValues()
    for group in (_config_flag, *groups):
        before = set(flags)
        group(flags)
        lines += ["", f"{(group.__doc__ or '').strip().rstrip('.:')}:"]
        for name in _names(flags):
            if name not in before:
                lines.append(_flag_help(flags[name]))
    return "\n".join(lines).strip()


def _flag_help(flag: absl_flags.Flag) -> str:
    default = "no default" if flag.default in (None, []) else f"default {flag.default_as_str}"
    text = absl_flags.text_wrap(f"{flag.help} ({default})", 88, " " * 6)
    return f"  --{'[no]' if flag.boolean else ''}{flag.name}\n{text}"


def _names(flags: FlagValues) -> list[str]:
    """Flag names in the order of their definition."""
    return [flag.name for group in flags.flags_by_module_dict().values() for flag in group]


def _program_name(main, argv: Sequence[str]) -> str:
    """`trainers.finetune` for `python -m trainers.finetune`."""
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    return spec.name if spec else os.path.basename(argv[0])


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


def _is_for_users(error: ValueError, packages: set[str]) -> bool:
    """Whether a `raise` in these packages made the error, and not a bug that a library met."""
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    package = last.tb_frame.f_globals.get("__name__", "").split(".")[0]
    opcode = last.tb_frame.f_code.co_code[last.tb_lasti]
    return package in packages and dis.opname[opcode] == "RAISE_VARARGS"
