"""Who may ask: one key for everything but the health checks, compared in constant time. None: everybody may.

Checked at one place per protocol that every request goes through (`app.py`, `frontends/kserve_grpc.py`), whatever route
it is for.
"""

import hmac

from hanbit.server.errors import RequestError


def check_key(key: str | None, authorization: str | None) -> None:
    """`authorization`: the header's value, "Bearer KEY". Raises RequestError."""
    if key is None:
        return
    scheme, _, given = (authorization or "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(), key.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise RequestError("unauthorized", "this server wants a key: send the header `Authorization: Bearer KEY`")
