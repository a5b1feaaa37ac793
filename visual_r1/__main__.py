"""The command `visual-r1`: what is of use besides the flows."""

import sys

USAGE = """usage: visual-r1 COMMAND [...]

commands:
  engine   serve the embedded Tinker engine to any program on this machine

`visual-r1 COMMAND --help` says more. Training is `python flows/train_flow.py`.
"""


def main() -> int:
    """Run the command that the first argument names; its exit status."""
    arguments = sys.argv[1:]
    match arguments[:1]:
        case ["engine"]:
            from visual_r1.engine.__main__ import run as serve

            return serve(arguments[1:])
        case ["-h" | "--help"]:
            print(USAGE)
            return 0
        case [] | [_]:
            print(USAGE, file=sys.stderr)
            return 2
        case _:
            return 2


if __name__ == "__main__":
    sys.exit(main())
