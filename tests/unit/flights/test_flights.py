"""The example's table: what is known before departure, what is known a day after arrival, and nothing else."""

from datetime import timedelta

import polars as pl
import pytest
from flights import FEATURES, TIMES, load_flights, permute_flights, read_csv, sample_flights


@pytest.fixture(scope="module")
def year() -> pl.DataFrame:
    return load_flights()


def test_the_year_has_every_flight_once(year: pl.DataFrame) -> None:
    assert year.height == 336_776
    assert year["flight_id"].n_unique() == year.height


def test_from_march_on_there_are_284821_flights(year: pl.DataFrame) -> None:
    assert year.filter(pl.col("flight_id") >= "2013-03").height == 284_821


def test_a_flight_that_never_arrived_is_late(year: pl.DataFrame) -> None:
    flights = read_csv("flights.csv.zip")
    cancelled = flights["dep_time"].null_count()
    assert (cancelled, flights["arr_delay"].null_count() - cancelled) == (8_255, 1_175)
    late = flights.filter((pl.col("arr_delay") > 15) | pl.col("arr_delay").is_null())
    assert year["late"].sum() == late.height


def test_features_are_numbers_and_nothing_of_the_outcome(year: pl.DataFrame) -> None:
    assert set(year.columns) == {"flight_id", *TIMES, *FEATURES, "late"}
    assert all(year[column].dtype.is_numeric() for column in FEATURES)


def test_codes_know_every_name_of_the_schedule(year: pl.DataFrame) -> None:
    for column, names in (("carrier", 16), ("origin", 3), ("dest", 105)):
        assert sorted(year[column].unique()) == list(range(names))


def test_weather_is_that_of_the_hour_before_the_prediction(year: pl.DataFrame) -> None:
    flight = year.filter(pl.col("flight_id") == "2013-07-01-B6745-JFK").row(0, named=True)
    hour_before = flight["predicted_at"] - timedelta(hours=1)
    observed = read_csv("weather.csv").filter(
        (pl.col("origin") == "JFK") & (pl.col("time_hour") == f"{hour_before:%Y-%m-%dT%H:%M:%SZ}")
    )
    assert flight["temp"] == observed["temp"][0]


def test_times_are_in_order_and_labels_come_a_day_after_the_scheduled_arrival(year: pl.DataFrame) -> None:
    assert (year["predicted_at"] <= year["scheduled_departure_at"]).all()
    hours = (year["scheduled_arrival_at"] - year["scheduled_departure_at"]).dt.total_minutes() / 60
    assert 0.5 < hours.min() < hours.max() < 12
    assert ((year["label_at"] - year["scheduled_arrival_at"]).dt.total_hours() == 24).all()
    waits = (year["label_at"] - year["predicted_at"]).dt.total_minutes() / 60
    assert waits.max() <= 37, "the document's horizon says that after 37 hours every label is there"


def test_a_sample_keeps_whole_flights_and_always_the_same(year: pl.DataFrame) -> None:
    once, again = sample_flights(year, 0.1), sample_flights(year.reverse(), 0.1)
    assert abs(once.height / year.height - 0.1) < 0.005
    assert set(once["flight_id"]) == set(again["flight_id"])


def test_a_permuted_year_has_the_same_rows_at_other_times(year: pl.DataFrame) -> None:
    permuted = permute_flights(year, seed=7)
    assert permuted["flight_id"].equals(year["flight_id"])
    assert permuted["late"].sum() == year["late"].sum()
    assert not permuted["late"].equals(year["late"])
    warm = [frame.filter(pl.col("flight_id") < "2013-03")["temp"].mean() for frame in (year, permuted)]
    assert warm[0] < 40 < 50 < warm[1], "January is cold in the year and no colder than July in the permuted one"
