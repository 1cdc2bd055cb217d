"""Runs the command line as `python -m kmod`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # A file here may have the name of a package.
    from kmod.cli.main import main

    sys.exit(main())
