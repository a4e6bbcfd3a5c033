"""The sample's report of a replayed year, in the form the demonstration writes (`steersman demo --report`)."""

import json
from datetime import UTC, datetime, timedelta

from steersman.decide import routing
from steersman.store.transaction import Transaction
from steersman.testing.sample_numbers import DAY, SampleVersion, World


def report(world: World, tx: Transaction) -> str:
    """Month by month, the loop beside version 1 left alone; JSON."""
    releases = tx.releases("ops", "flight-delay", "production")
    first = SampleVersion(number=1, trained_until=datetime(2013, 2, 12, 6, tzinfo=UTC))
    trained = {v.number: v.trained_until for v in tx.versions("ops", "flight-delay") if v.trained_until}
    months = []
    for month in range(3, 13):
        begin = datetime(2013, month, 1, tzinfo=UTC)
        days = [begin + DAY * i for i in range(31) if (begin + DAY * i).month == month]
        loop, static, rows = [], [], 0
        for day in days:
            live = routing.live_at(releases, day + timedelta(hours=12))
            number = live.version if live else 1
            version = SampleVersion(number=number, trained_until=trained[number])
            loop.append((world.auc(version, day), world.log_loss(version, day)))
            static.append((world.auc(first, day), world.log_loss(first, day)))
            rows += world.rows(day)
        months.append(
            {
                "month": f"2013-{month:02d}",
                "flights": rows,
                "auc_loop": sum(x[0] for x in loop) / len(loop),
                "auc_static": sum(x[0] for x in static) / len(static),
                "log_loss_loop": sum(x[1] for x in loop) / len(loop),
                "log_loss_static": sum(x[1] for x in static) / len(static),
            }
        )
    faults = [
        ("scrambled features", "aborted by a gate, no request answered"),
        ("fails in service", "rolled back in the canary"),
        ("control server killed", "the release resumed where it was"),
        ("worker killed", "no caller saw a failure"),
        ("alias moved by hand", "refused and recorded"),
    ]
    return json.dumps(
        {
            "requests": 16_912,
            "request_failures": 0,
            "months": months,
            "releases": [],
            "incidents": [],
            "retrainings": [],
            "faults": [{"name": name, "handled": True, "evidence": [], "how": how} for name, how in faults],
            "ledger": {"entries": tx.ledger.size(), "verified": True, "checkpoint": ""},
            "wall_s": 263.0,
            "automated_share": {"promoted": 8, "manual_changes": 0, "share": 1.0},
        }
    )
