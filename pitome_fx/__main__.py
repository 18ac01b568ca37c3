"""``python -m pitome_fx``."""

import sys

from pitome_fx.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
