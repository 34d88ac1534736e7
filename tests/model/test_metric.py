"""Definitions and filters as they are written."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.errors import Refused
from headwater.model.metric import Condition, Filter, MetricDefinition, definition_from, filter_from

texts = st.text(min_size=1, max_size=5)
conditions = st.one_of(
    st.builds(Condition, texts, st.sampled_from(["eq", "ne"]), st.one_of(texts, st.integers(0, 9), st.booleans())),
    st.builds(Condition, texts, st.just("in"), st.lists(texts, max_size=2)),
)
filters = st.recursive(
    st.builds(Filter, st.lists(conditions, min_size=1, max_size=2).map(tuple)),
    lambda inner: st.builds(
        Filter,
        st.lists(st.one_of(conditions, inner), max_size=2).map(tuple),
        st.lists(st.one_of(conditions, inner), max_size=2).map(tuple),
    ),
    max_leaves=5,
)
definitions = st.builds(
    MetricDefinition,
    st.sampled_from(["count", "sum", "unique"]),
    st.none() | texts,
    st.none() | texts,
    st.none() | filters,
    st.lists(st.lists(texts, max_size=2).map(tuple), max_size=2).map(tuple),
    texts,
)


@given(definitions)
def test_a_definition_is_read_back_from_its_json(definition):
    assert definition_from(msgspec.json.decode(msgspec.json.encode(definition))) == definition


def test_a_single_condition_is_a_filter():
    assert filter_from({"property": "a", "op": "eq", "value": 1}) == Filter(all=(Condition("a", "eq", 1),))


@pytest.mark.parametrize(
    "written",
    [
        [],
        {"aggregate": "median"},
        {"aggregate": "count", "colour": 1},
        {"aggregate": "count", "filter": {"none": []}},
        {"aggregate": "count", "filter": {"all": [{"property": "a", "op": "like"}]}},
        {"aggregate": "count", "filter": {"all": {}}},
    ],
)
def test_what_is_no_definition_is_an_invalid_field(written):
    with pytest.raises(Refused) as refused:
        definition_from(written)
    assert refused.value.reason == "invalid_field"
