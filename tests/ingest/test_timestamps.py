"""The timestamp grammar against a slow reference that is written another way."""

import calendar
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.model.timestamp import LAST, parse_timestamp, parse_timestamps


def reference(text):
    """Microseconds, or None: reads from the left, character by character."""
    rest = list(text)

    def digits(n):
        taken = [rest.pop(0) for _ in range(n)]
        if not all(c in string.digits for c in taken):
            raise ValueError
        return int("".join(taken))

    def one_of(allowed):
        taken = rest.pop(0)
        if taken not in allowed:
            raise ValueError
        return taken

    try:
        year = digits(4)
        one_of("-")
        month = digits(2)
        one_of("-")
        day = digits(2)
        one_of("Tt ")
        hour = digits(2)
        one_of(":")
        minute = digits(2)
        one_of(":")
        second = digits(2)
        fraction = ""
        if rest and rest[0] == ".":
            rest.pop(0)
            while rest and rest[0] in string.digits:
                fraction += rest.pop(0)
            if not fraction:
                raise ValueError
        offset = 0
        if rest:
            zone = one_of("Zz+-")
            if zone in "+-":
                hours = digits(2)
                one_of(":")
                minutes = digits(2)
                if hours > 23 or minutes > 59:
                    raise ValueError
                offset = (hours * 60 + minutes) * (60 if zone == "+" else -60)
        if rest or hour > 23 or minute > 59 or second > 60 or not 1 <= month <= 12 or year < 1:
            raise ValueError
        if not 1 <= day <= calendar.monthrange(year, month)[1]:
            raise ValueError
    except (ValueError, IndexError):
        return None
    us = (calendar.timegm((year, month, day, hour, minute, second)) - offset) * 1_000_000 + int(
        (fraction + "000000")[:6]
    )
    return us if 0 <= us <= LAST else None


def ours(value):
    try:
        return parse_timestamp(value)
    except ValueError:
        return None


two = st.integers(0, 99).map("{:02d}".format)
plausible = st.builds(
    "{:04d}-{}-{}{}{}:{}:{}{}{}".format,
    st.integers(1969, 2030) | st.integers(0, 9999),
    st.integers(0, 13).map("{:02d}".format),
    st.integers(0, 32).map("{:02d}".format),
    st.sampled_from("Tt T_"),
    st.integers(0, 24).map("{:02d}".format),
    st.integers(0, 60).map("{:02d}".format),
    st.integers(0, 61).map("{:02d}".format),
    st.sampled_from(["", ".1", ".123", ".123456", ".1234567891", ".", ",5"]),
    st.sampled_from(["Z", "z", "", "+00:00", "-05:30", "+23:59", "+24:00", "+0100", " Z", "Z\n"]),
)
valid = st.builds(
    "{}-{:02d}-{:02d}{}{:02d}:{:02d}:{:02d}{}{}".format,
    st.integers(1971, 9998),
    st.integers(1, 12),
    st.integers(1, 28),
    st.sampled_from("Tt "),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 60),
    st.sampled_from(["", ".1", ".123", ".123456", ".1234567891"]),
    st.sampled_from(["Z", "z", "", "+00:00", "-05:30", "+23:59"]),
)
mutated = st.builds(
    lambda text, at, char: text[: at % len(text)] + char + text[at % len(text) + 1 :],
    plausible,
    st.integers(0, 30),
    st.sampled_from("0123456789-:TZ.+ \n²٣"),
)


@settings(max_examples=1500, deadline=None)
@given(plausible | mutated)
@example("2016-12-31T23:59:60Z")
@example("2024-02-29T00:00:00Z")
@example("2100-02-29T00:00:00Z")
@example("9999-12-31T23:59:59.999999Z")
@example("9999-12-31T23:59:60Z")
@example("1970-01-01T00:30:00+01:00")
@example("1969-12-31T23:59:59-01:00")
def test_a_text_is_read_as_the_grammar_says(text):
    assert ours(text) == reference(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(valid, min_size=7, max_size=15), st.none() | mutated)
def test_many_at_once_are_read_as_each_one_is(good, other):
    assert parse_timestamps(good, 5) == [reference(text) for text in good]
    if other is not None and reference(other) is None:
        assert parse_timestamps([*good, other], 5) is None


def test_plain_texts_of_a_batch_are_read_as_each_one_is():
    texts = [
        f"2024-0{1 + i % 9}-1{i % 10}T1{i % 10}:00:0{i % 10}{'.' + '9' * (i % 7) if i % 7 else ''}Z" for i in range(50)
    ]
    assert parse_timestamps(texts, 5) == [reference(text) for text in texts]
    assert parse_timestamps([*texts, "2024-02-30T00:00:00Z"], 5) is None
    assert parse_timestamps([*texts, "2024-01-01T00:00:00Z\n2024-01-01T00:00:00Z"], 5) is None
    assert parse_timestamps([*texts, "1969-12-31T23:59:59Z"], 5) is None


def test_numbers_are_milliseconds_and_nothing_is_the_receipt():
    assert parse_timestamps([1_705_314_600_123, 0, None], 5) == [1_705_314_600_123_000, 0, 5]
    assert parse_timestamps([None] * 20, 5) == [5] * 20


@pytest.mark.parametrize("value", [True, 1.5, -1, 10**18, float("inf"), [], {}, b"2024-01-01T00:00:00Z"])
def test_other_values_are_no_timestamps(value):
    assert parse_timestamps([value], 5) is None
