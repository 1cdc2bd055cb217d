"""Runs the command line as `python -m kmod`."""

import sys

from kmod.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
