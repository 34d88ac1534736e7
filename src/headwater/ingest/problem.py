"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from headwater.errors import Refused

MEDIA_TYPE = b"application/problem+json"


def body(refused: Refused) -> bytes:
    """The problem document of a refusal: type, title, status, detail, reason, and whatever the refusal adds."""
    return msgspec.json.encode(
        {
            "type": f"urn:headwater:{refused.reason}",
            "title": HTTPStatus(refused.status).phrase,
            "status": refused.status,
            "detail": refused.detail,
            "reason": refused.reason,
            **{name: value for name, value in refused.extra.items() if value is not None},
        }
    )


def headers(refused: Refused) -> list[tuple[bytes, bytes]]:
    """The header fields that go with it."""
    fields = [(b"content-type", MEDIA_TYPE)]
    if refused.status in (429, 503):
        fields.append((b"retry-after", str(refused.retry_after or 1).encode()))
    if refused.status == 401:
        fields.append((b"www-authenticate", b"Bearer"))
    return fields
