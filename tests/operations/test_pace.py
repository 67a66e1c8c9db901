import pytest

from wallet_gql.operations.pace import Pace


def measured(*batches: tuple[int, float]) -> Pace:
    pace = Pace()
    for count, seconds in batches:
        pace.measure(count, seconds)
    return pace


def test_nothing_measured_takes_no_time() -> None:
    assert Pace().seconds(3, 500) == 0


def test_a_line_is_told_apart_into_its_parts() -> None:
    pace = measured(*((count, 0.5 + 0.01 * count) for count in (1, 200, 30, 256, 7)))
    assert pace.batch_seconds == pytest.approx(0.5)
    assert pace.posting_seconds == pytest.approx(0.01)
    assert pace.seconds(2, 300) == pytest.approx(4.0)


@pytest.mark.parametrize("count", [1, 100])
def test_batches_of_one_size_say_nothing_of_larger_ones(count: int) -> None:
    # A lane of which nothing but single postings were seen must not refuse what would share their batch.
    pace = measured(*[(count, 2.0)] * 5)
    assert pace.batch_seconds == pytest.approx(2.0)
    assert pace.posting_seconds == 0
    assert pace.count_within(0.1, 256) == 256


@pytest.mark.parametrize("batches", [[(10, 5.0), (200, 1.0)], [(10, 0.1), (20, 9.0), (21, 0.1)], [(5, 1.0), (6, 9.0)]])
def test_neither_part_is_negative_whatever_the_noise(batches: list[tuple[int, float]]) -> None:
    pace = measured(*batches)
    assert pace.batch_seconds >= 0
    assert pace.posting_seconds >= 0
    mean = sum(0.8 ** (len(batches) - n) * seconds for n, (_, seconds) in enumerate(batches, 1))
    assert pace.seconds(1, 0) <= mean


@pytest.mark.parametrize(
    ("batch", "posting", "within", "count"),
    [(0.5, 0.01, 1.5, 100), (0.5, 0.01, 60, 256), (0.0, 1.0, 0.5, 1), (2.0, 0.01, 0.5, 200)],
)
def test_a_batch_has_what_it_can_do_in_time(batch: float, posting: float, within: float, count: int) -> None:
    pace = measured(*((n, batch + posting * n) for n in (1, 50, 256, 3)))
    assert pace.count_within(within + 1e-6, 256) == pytest.approx(count, abs=1)


def test_what_is_long_past_is_forgotten() -> None:
    pace = measured((1, 60.0), *[(1, 0.01)] * 40)
    assert pace.seconds(1, 1) < 0.02
