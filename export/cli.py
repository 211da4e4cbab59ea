"""What the programs of this package share: flags, exit status, one line for a user's mistake."""

import sys

from absl import app, flags, logging


class UsageError(ValueError):
    """The flags ask for something that cannot be: exit status 2."""


def run(main):
    """Runs `main()` after reading absl flags and ends the process.

    Exit status 0: done. 1: failed (ValueError, OSError). 2: misused (a bad flag, `UsageError`).
    """
    app.run(lambda argv: _report(main, argv), flags_parser=_parse)


def _report(main, argv):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # absl's own default tells what libraries note
    try:
        if len(argv) > 1:
            raise UsageError(f"unexpected argument {argv[1]!r}: every option is a --flag=value")
        main()
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
