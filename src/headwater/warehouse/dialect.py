"""DuckDB as text: the primitives of which every metric query is made.

Each method returns SQL text and nothing else; names from outside come in through `literal` and `quoted` only. Another
warehouse is another class with the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headwater.errors import UsageError
from headwater.model.metric import Condition, Filter
from headwater.model.value import NUMBER_GRAMMAR, text_of

# The Python function that a connection offers for numbers whose digits or exponents a plain cast cannot take.
NUMBER_FUNCTION = "hw_number"
KNOWN_CONTEXT = ("ip", "userAgent", "page", "referrer", "library", "locale", "timezone", "campaign", "sessionId")
# Up to 18 digits before and 15 after the point: DuckDB casts these exactly as `model.value.number_of` does.
_PLAIN_NUMBER = r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,15})?"


class DuckDB:
    """The dialect of the embedded warehouse."""

    name = "duckdb"

    def quoted(self, name: str) -> str:
        """An identifier."""
        return '"' + name.replace('"', '""') + '"'

    def literal(self, text: str) -> str:
        """A text constant. NUL and lone surrogates become U+FFFD, as they do in stored text."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if not text.isascii() else text
        return "'" + clean.replace("\0", "\ufffd").replace("'", "''") + "'"

    def property_text(self, name: str) -> str:
        """The text of a property in the map column of lake files; null where it is absent."""
        return f"properties[{self.literal(name)}]"

    def context_text(self, name: str) -> str:
        """The text of a field of `context` in lake files; what the struct has no field for lies in `extra`.

        `extra` itself is no field: it is where the others are kept.
        """
        if name == "extra":
            return "CAST(NULL AS VARCHAR)"
        extra = f"context.extra[{self.literal(name)}]"
        return f"coalesce(context.{self.quoted(name)}, {extra})" if name in KNOWN_CONTEXT else extra

    def person(self, user: str = "user_id", anonymous: str = "anonymous_id") -> str:
        """Who an event is counted for: the user, else the anonymous id; an empty id is none."""
        return f"coalesce(nullif({user}, ''), nullif({anonymous}, ''))"

    def number(self, text: str) -> str:
        """DECIMAL(38,9) of a text, half away from zero; null where it is not a number (docs/specs/values.md)."""
        return (
            f"CASE WHEN regexp_full_match({text}, '{_PLAIN_NUMBER}') THEN CAST({text} AS DECIMAL(38,9)) "
            f"WHEN regexp_full_match({text}, '{NUMBER_GRAMMAR}') THEN {NUMBER_FUNCTION}({text}) END"
        )

    def micros(self, column: str) -> str:
        """Epoch in microseconds of a time column."""
        return f"epoch_us({column})"

    def bucket(self, micros: str, width: int) -> str:
        """Start of the window of `width` microseconds; integers only."""
        return f"{micros} // {width} * {width}"

    def files(self, paths: Sequence[str]) -> str:
        """A relation of exactly these Parquet files."""
        listed = ", ".join(self.literal(path) for path in paths)
        return f"read_parquet([{listed}], hive_partitioning = false)"

    def distinct(self, text: str) -> str:
        """Aggregate: the distinct texts of a group as a list; nulls left out by the caller's filter."""
        return f"list(DISTINCT {text})"

    def condition(self, given: Condition, text: str) -> str:
        """A condition on a text expression: true or not true. An absent text is equal to nothing."""
        if given.op == "exists":
            return f"{text} IS NOT NULL" if given.value is not False else f"{text} IS NULL"
        scalars = given.value if given.op in ("in", "not_in") else [given.value]
        texts = [self.literal(found) for found in map(text_of, scalars) if found is not None]
        if given.op in ("eq", "in"):
            return f"{text} IN ({', '.join(texts)})" if texts else "FALSE"
        return f"({text} IS NULL OR {text} NOT IN ({', '.join(texts)}))" if texts else "TRUE"

    def filter(self, given: Filter | None, text: Callable[[str], str]) -> str:
        """A filter over events; `text` gives the text expression of a property or field name."""
        if not given:
            return "TRUE"
        assert given is not None

        def part(item: Condition | Filter) -> str:
            if isinstance(item, Filter):
                return self.filter(item, text)
            return self.condition(item, text(item.property))

        parts = [part(item) for item in given.all]
        if given.any:
            parts.append("(" + " OR ".join(part(item) for item in given.any) + ")")
        return parts[0] if len(parts) == 1 else "(" + " AND ".join(parts) + ")"


def event_field(name: str) -> str:
    """The column of a `$field`. Raises `UsageError` for one that does not exist."""
    columns = {
        "$eventType": "event_type",
        "$userId": "user_id",
        "$anonymousId": "anonymous_id",
        "$eventId": "event_id",
    }
    if name not in columns:
        raise UsageError(f"{name!r} is no field of an event; fields are {', '.join(columns)} and $context.NAME")
    return columns[name]
