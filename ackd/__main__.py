"""Entry point of `python -m ackd`."""

import sys

from ackd.cli import main

if __name__ == "__main__":
    sys.exit(main())
