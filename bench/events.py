"""The events that every measurement uses: about 400 bytes of JSON each, from a seed, with a real-looking mix."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

EVENT_TYPES = ("page_view", "click", "search", "add_to_cart", "purchase")
COUNTRIES = ("US", "DE", "IN", "BR", "FR", "GB", "JP", "NG", "MX", "SE")
DEVICES = ("mobile", "desktop", "tablet")


def event(chance: random.Random, at: datetime) -> dict[str, object]:
    """One event of the mix at `at`: five properties, three of context."""
    kind = chance.choices(EVENT_TYPES, (60, 20, 10, 6, 4))[0]
    return {
        "eventId": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "eventType": kind,
        "userId": f"user_{int(chance.paretovariate(1.2)) % 100_000:06d}",
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "properties": {
            "path": f"/products/{chance.randrange(2_000)}",
            "country": chance.choices(COUNTRIES, range(10, 0, -1))[0],
            "device": chance.choice(DEVICES),
            "amount": chance.randrange(100, 50_000) / 100,
            "quantity": chance.randrange(1, 6),
        },
        "context": {
            "ip": f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}",
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            "page": "https://shop.example/",
        },
    }


def bodies(count: int, size: int, seed: int = 1) -> Iterator[bytes]:
    """`count` request bodies of `size` events each, with ids of their own, timestamped now."""
    chance = random.Random(seed)
    for _ in range(count):
        now = datetime.now(UTC)
        yield json.dumps([event(chance, now) for _ in range(size)], separators=(",", ":")).encode()
