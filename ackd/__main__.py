"""`python -m ackd`."""

import sys

from ackd.cli import main

sys.exit(main())
