"""``python -m imgbackend.cli``: the command, where no script is installed."""

import sys

from imgbackend.cli.main import main

sys.exit(main())
