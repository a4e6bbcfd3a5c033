"""The example's folder is read as its users run it: as scripts that find each other beside themselves."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "01-flight-delay"))
