"""What the programs of this package share: flags, exit status, one line for a user's mistake."""

import sys

from absl import app, flags, logging


class UsageError(ValueError):
    """The flags ask for something that cannot be: exit status 2."""


def run(main, commands=()):
    """Runs `main()` after reading absl flags and ends the process.

    Exit status 0: done. 1: failed (ValueError, OSError). 2: misused (a bad flag, `UsageError`).

    Args:
      main: the program; a program with commands is called with the one given, `main(command)`.
      commands: names, one of which is the first argument.
    """
    app.run(lambda argv: _report(main, argv, commands), flags_parser=_parse)


def _report(main, argv, commands):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # absl's own default tells what libraries note
    try:
        given = argv[1:]
        if commands and (not given or given[0] not in commands):
            what = repr(given[0]) if given else "nothing"
            raise UsageError(f"expected one of {', '.join(commands)}, not {what}")
        if len(given) > bool(commands):
            extra = given[bool(commands)]
            raise UsageError(f"unexpected argument {extra!r}: every option is a --flag=value")
        main(*given)
    except UsageError as error:
        _exit(2, error)
    except (ValueError, OSError) as error:
        _exit(1, error)
    except KeyboardInterrupt:
        _exit(1, "interrupted")


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _exit(2, f"{error} (--help lists the flags)")


def _exit(status, message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
