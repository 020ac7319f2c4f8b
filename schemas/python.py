"""A clear word where somebody runs the commands with a Python that no installer checked."""

import sys

MINIMUM = (3, 11)

if sys.version_info < MINIMUM:
    found = sys.version.split()[0]
    sys.stderr.write(f"gristmill: error: needs Python 3.11 or newer; this is {found}\n")
    sys.exit(2)
