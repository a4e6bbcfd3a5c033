"""The invented world of the sample: how good a version is on a day, and how much one day differs from the next.

Shaped after the year of flights: the daily AUC has a spread of about .05 that both versions share (one weather), the
difference between two versions has a spread of about .012, and a version loses skill against a fresh one as it ages.
Everything comes from one seed.
"""

import math
import random
from datetime import datetime, timedelta

import msgspec

DAY = timedelta(days=1)

AGE_LOSS = 0.0011
"""AUC a version loses a day against a fresh one: about .03 in a month, as measured from May to September."""

AGE_LOSS_MAX = 0.058


class SampleVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the sample: what it was trained on, and what is wrong with it. `handicap` is AUC lost on purpose."""

    number: int
    trained_until: datetime
    handicap: float = 0.0


class World:
    """Numbers by (version, day); asking twice gives the same answer."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def _noise(self, what: str, day: datetime, spread: float) -> float:
        return random.Random(f"{self._seed}/{what}/{day:%Y%m%d}").gauss(0.0, spread)  # noqa: S311 - invented numbers

    def rows(self, day: datetime) -> int:
        """Flights of the day: fewer on Saturdays, more in summer."""
        season = 25.0 * math.sin(2 * math.pi * (day.timetuple().tm_yday - 100) / 365)
        return int(945 + season - (150 if day.weekday() == 5 else 0) + self._noise("rows", day, 14.0))

    def auc(self, version: SampleVersion, day: datetime) -> float:
        """AUC of the version on the flights of `day`."""
        season = 0.014 * math.sin(2 * math.pi * (day.timetuple().tm_yday - 140) / 365)
        age = max((day - version.trained_until) / DAY - 14.0, 0.0)
        skill = 0.742 + season - min(AGE_LOSS * age, AGE_LOSS_MAX) - version.handicap
        return skill + self._noise("weather", day, 0.028) + self._noise(f"v{version.number}", day, 0.008)

    def log_loss(self, version: SampleVersion, day: datetime) -> float:
        """Mean log loss, falling as the AUC rises."""
        return 0.505 - 0.9 * (self.auc(version, day) - 0.72) + self._noise(f"loss{version.number}", day, 0.012)
