"""Refuse a Python that is too old, where no installer checked it."""

import sys

MINIMUM = (3, 11)

if sys.version_info < MINIMUM:
    found = sys.version.split()[0]
    sys.stderr.write(f"gristmill: error: needs Python 3.11 or newer; this is {found}\n")
    sys.exit(2)
