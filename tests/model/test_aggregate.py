"""Aggregate states merge to the same value whatever the split and the order."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from headwater.model import sketch
from headwater.model.aggregate import EMPTY, State, merge, value
from headwater.model.value import decimal_text, looks_typed, number_of, read_back, text_of

numbers = st.decimals(min_value=-(10**15), max_value=10**15, places=9)


def state_of(values: list[Decimal], people: list[str]) -> State:
    return State(
        count=len(values) + len(people),
        numbers=len(values),
        sum=sum(values, Decimal(0)) if values else None,
        min=min(values, default=None),
        max=max(values, default=None),
        sketch=sketch.sketch_of(people) if people else None,
    )


def seen(state: State) -> list[object]:
    return [value(state, kind) for kind in ("count", "sum", "avg", "min", "max", "unique")]


@given(st.lists(st.tuples(st.lists(numbers, max_size=5), st.lists(st.text(max_size=5), max_size=40)), max_size=6))
def test_any_split_of_the_events_gives_the_value_of_all_of_them(parts):
    together = state_of([v for p in parts for v in p[0]], [t for p in parts for t in p[1]])
    states = [state_of(*p) for p in parts]
    assert seen(merge(states)) == seen(together)
    assert seen(merge(reversed(states))) == seen(together)
    assert seen(merge([merge(states[:2]), EMPTY, merge(states[2:])])) == seen(together)


def test_merging_a_sketch_with_itself_changes_nothing():
    once = sketch.sketch_of(f"user-{i}" for i in range(20_000))
    assert sketch.estimate(sketch.merge([once, once])) == sketch.estimate(once)
    assert abs(sketch.estimate(once) - 20_000) < 20_000 * 0.05


def test_the_estimate_does_not_depend_on_how_a_sketch_came_about():
    people = [f"user-{i}" for i in range(9_000)]
    whole = sketch.sketch_of(people)
    parts = sketch.merge(sketch.sketch_of(people[i::7]) for i in range(7))
    assert sketch.estimate(parts) == sketch.estimate(whole)


def test_nothing_is_zero_for_counts_and_none_for_extremes():
    assert seen(EMPTY) == [0, 0, None, None, None, 0]


def test_an_average_is_rounded_half_away_from_zero_to_nine_places():
    assert value(State(numbers=3, sum=Decimal(2)), "avg") == Decimal("0.666666667")
    assert value(State(numbers=3, sum=Decimal(-2)), "avg") == Decimal("-0.666666667")


def test_a_number_is_text_of_the_whole_json_grammar_below_ten_to_the_twentieth():
    assert number_of("1e3") == 1000
    assert number_of("0.1234567895") == Decimal("0.123456790")
    assert number_of("-0.1234567895") == Decimal("-0.123456790")
    assert number_of("99999999999999999999") == Decimal(10) ** 20 - 1
    for text in ("100000000000000000000", "01", "+1", " 1", "1.", ".5", "0x1", "", "NaN", "1e", "١"):
        assert number_of(text) is None, text


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_value_is_read_back_from_its_text_unless_it_is_a_string_that_looks_like_another_type(given_value):
    text = text_of(given_value)
    if text is None:
        return
    if isinstance(given_value, str) and looks_typed(text):
        return
    back = read_back(text)
    assert back == given_value
    assert text_of(back) == text


def test_decimals_are_written_without_exponent_or_trailing_zeros():
    assert [decimal_text(Decimal(t)) for t in ("1200.500000000", "1E+2", "-0.0", "0.000000001")] == [
        "1200.5", "100", "0", "0.000000001",
    ]  # fmt: skip
