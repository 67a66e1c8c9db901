"""Windows of time: by chance against a calendar that is found another way, and where clocks change at midnight."""

import shutil
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model.limits import SECOND, Calendar

from wallet_gql.domain.limits import CalendarUnit, Window, zone, zone_names

FIRST, LAST = 2000, 2041
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)

# Clocks that skip midnight, or to it; that go back to it, from it, or over it; that lost a day, or half an hour.
ZONES = (
    "America/Havana", "America/New_York", "America/Nuuk", "America/Santiago", "America/Sao_Paulo", "America/St_Johns",
    "Asia/Beirut", "Asia/Kathmandu", "Asia/Pyongyang", "Atlantic/Azores", "Australia/Lord_Howe", "Europe/Berlin",
    "Pacific/Apia", "UTC",
)  # fmt: skip


@cache
def calendar_of(zone_name: str) -> Calendar:
    return Calendar(zone_name, FIRST, LAST)


def instant(at: int) -> datetime:
    return EPOCH + timedelta(microseconds=at)


def agree(zone_name: str, at: int) -> None:
    for unit in CalendarUnit:
        window = Window(unit=unit, time_zone=zone_name)
        begin, end = map(instant, calendar_of(zone_name).window(unit.name, at))
        assert window.last_before(instant(at)) == begin - MOMENT, (zone_name, unit, instant(at))
        assert window.next_after(instant(at)) == end, (zone_name, unit, instant(at))


# Months from both ends: all of the months and weeks that these are in are known, and the next ones.
INSTANTS = st.integers(*((datetime(year, 3, 1, tzinfo=UTC) - EPOCH) // MOMENT for year in (FIRST, LAST - 1)))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ZONES), INSTANTS)
def test_windows_of_the_calendar(zone_name: str, at: int) -> None:
    agree(zone_name, at)


@pytest.mark.parametrize("zone_name", ZONES)
def test_windows_of_the_calendar_where_clocks_change(zone_name: str) -> None:
    calendar = calendar_of(zone_name)
    near = (-7200, -3600, -1800, -60, 0, 60, 1800, 3540, 3600, 7200)
    for changed_at, _ in calendar.changes[1:]:
        days = [begin for begin in calendar.begins if abs(begin - changed_at * SECOND) <= 86_400 * SECOND]
        for at in [(changed_at + seconds) * SECOND for seconds in near] + days:
            for moment in (at - 1, at, at + 1):
                agree(zone_name, moment)


def test_a_day_s_beginning_is_in_it_and_the_moment_before_is_not() -> None:
    for zone_name in ZONES:
        for begin in calendar_of(zone_name).begins[400:-400:97]:
            agree(zone_name, begin)
            agree(zone_name, begin - 1)


# By almanacs, not by any code: (zone, a moment, when its day began, when the next one begins).
DAYS = (
    # Clocks skip from midnight to one o'clock: the day has 23 hours.
    ("Asia/Beirut", "2022-03-27T00:30", "2022-03-26T22:00", "2022-03-27T21:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00", "2018-11-04T03:00", "2018-11-05T02:00"),
    # Midnight comes twice: the first counts, and the day has 25 hours.
    ("America/Havana", "2021-11-07T04:59:59.999999", "2021-11-07T04:00", "2021-11-08T05:00"),
    ("America/Havana", "2021-11-07T05:30", "2021-11-07T04:00", "2021-11-08T05:00"),
    # Just before midnight clocks go back an hour, so midnight comes once, and the day before it has 25 hours.
    ("America/Santiago", "2023-04-02T03:30", "2023-04-01T03:00", "2023-04-02T04:00"),
    ("America/Santiago", "2023-04-02T04:00", "2023-04-02T04:00", "2023-04-03T04:00"),
    # A minute after midnight they do: it comes twice, the first counts, and the evening that follows is the new day's.
    ("America/St_Johns", "2010-11-07T02:29:59", "2010-11-06T02:30", "2010-11-07T02:30"),
    ("America/St_Johns", "2010-11-07T02:30:30", "2010-11-07T02:30", "2010-11-08T03:30"),
    ("America/St_Johns", "2010-11-07T03:00", "2010-11-07T02:30", "2010-11-08T03:30"),
    ("America/St_Johns", "2010-11-07T03:30", "2010-11-07T02:30", "2010-11-08T03:30"),
    # Samoa had no 30th of December.
    ("Pacific/Apia", "2011-12-30T09:59:59", "2011-12-29T10:00", "2011-12-30T10:00"),
    ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
    # Half an hour is skipped, at two o'clock.
    ("Australia/Lord_Howe", "2021-10-02T16:00", "2021-10-02T13:30", "2021-10-03T13:00"),
    ("Asia/Kathmandu", "2024-02-28T18:14:59.999999", "2024-02-27T18:15", "2024-02-28T18:15"),
    ("Asia/Kathmandu", "2024-02-28T18:15", "2024-02-28T18:15", "2024-02-29T18:15"),
)


@pytest.mark.parametrize(("zone_name", "at", "begin", "end"), DAYS)
def test_days(zone_name: str, at: str, begin: str, end: str) -> None:
    window = Window(unit=CalendarUnit.DAY, time_zone=zone_name)
    assert window.last_before(utc(at)) == utc(begin) - MOMENT
    assert window.next_after(utc(at)) == utc(end)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("unit", "at", "begin", "end"),
    [
        # In Berlin, an hour ahead and in summer two; weeks begin on Mondays, also over a year's end.
        (CalendarUnit.WEEK, "2025-01-01T12:00", "2024-12-29T23:00", "2025-01-05T23:00"),
        (CalendarUnit.WEEK, "2024-12-29T22:59:59.999999", "2024-12-22T23:00", "2024-12-29T23:00"),
        (CalendarUnit.WEEK, "2024-03-31T12:00", "2024-03-24T23:00", "2024-03-31T22:00"),
        (CalendarUnit.MONTH, "2024-02-29T22:59:59.999999", "2024-01-31T23:00", "2024-02-29T23:00"),
        (CalendarUnit.MONTH, "2023-02-28T23:00", "2023-02-28T23:00", "2023-03-31T22:00"),
        (CalendarUnit.MONTH, "2024-12-31T22:00", "2024-11-30T23:00", "2024-12-31T23:00"),
        (CalendarUnit.DAY, "2024-02-29T12:00", "2024-02-28T23:00", "2024-02-29T23:00"),
    ],
)
def test_weeks_months_and_a_leap_day(unit: CalendarUnit, at: str, begin: str, end: str) -> None:
    window = Window(unit=unit, time_zone="Europe/Berlin")
    assert window.last_before(utc(at)) == utc(begin) - MOMENT
    assert window.next_after(utc(at)) == utc(end)


@given(st.integers(1, 366 * 86_400), st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds of times that have a zone
def test_rolling_windows_are_so_many_seconds_long(seconds: int, at: datetime) -> None:
    assert at - Window(rolling_seconds=seconds).last_before(at) == timedelta(seconds=seconds)


@pytest.fixture
def other_data(tmp_path: Path) -> Iterator[None]:
    """Let the machine have other data for Berlin: Tokyo's."""
    (tmp_path / "Europe").mkdir()
    with (
        files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").open("rb") as data,
        (tmp_path / "Europe" / "Berlin").open("wb") as berlin,
    ):
        shutil.copyfileobj(data, berlin)
    zoneinfo.reset_tzpath([tmp_path])
    zone.cache_clear()
    yield
    zoneinfo.reset_tzpath()
    zone.cache_clear()


def test_time_zones_are_the_package_s(other_data: None) -> None:  # noqa: ARG001 - has taken effect
    at = datetime(2024, 7, 1, tzinfo=UTC)
    assert zoneinfo.ZoneInfo.no_cache("Europe/Berlin").utcoffset(at) == timedelta(hours=9)
    assert zone("Europe/Berlin").utcoffset(at) == timedelta(hours=2)


def test_every_time_zone_can_be_read() -> None:
    assert {"Europe/Berlin", "America/New_York", "UTC"} < zone_names()
    for name in zone_names():
        assert zone(name).utcoffset(datetime(2024, 7, 1, tzinfo=UTC)) is not None
