"""What the programs of the library share: flags of their own, exit status, one line of error."""

import sys
from collections.abc import Callable, Sequence

from absl import flags as absl_flags


def run(
    argv: Sequence[str],
    doc: str,
    define_flags: Callable[[absl_flags.FlagValues], None],
    action: Callable[..., None],
    positional: Sequence[str] = (),
) -> int:
    """Runs a program and returns its exit status: 0 done, 1 failed, 2 misused.

    Args:
      argv: its name, and the arguments.
      doc: what `--help` prints before the flags.
      define_flags: defines the flags. Those with the default None have to be given.
      action: the work, called with the flags and the positional arguments. What it raises as
        ValueError or OSError is a failure, told in one line.
      positional: names of the arguments that are no flags, all of which have to be given.
    """
    program, flags = argv[0], absl_flags.FlagValues()  # nothing is global
    define_flags(flags)
    absl_flags.DEFINE_boolean("help", False, "show this help", flag_values=flags, short_name="h")
    try:
        others = flags(list(argv))[1:]
        if flags.help:
            print(doc + flags.get_help())
            return 0
        missing = [name for name in flags if flags[name].value is None]
        if len(others) > len(positional):
            raise absl_flags.Error(
                f"{others[len(positional)]!r} is one too many; --help tells more"
            )
        if len(others) < len(positional):
            raise absl_flags.Error(f"{positional[len(others)]} is missing; --help tells more")
        if missing:
            raise absl_flags.Error(f"--{missing[0]} is missing; --help lists the flags")
    except absl_flags.Error as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    try:
        action(flags, *others)
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    return 0
