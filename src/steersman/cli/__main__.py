"""`python -m steersman.cli` is `steersman`."""

import sys

from steersman.cli import main

sys.exit(main())
