"""Who may ask, and for what: keys with roles, held against every request at one place per protocol (`app.py`,
`grpc_server.py`), whatever route it is for.

What is not named here is an administrator's: a route that somebody adds is closed until it is given to others.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError

Role = Literal["infer", "metrics", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

_MODEL = r"/v2/models/[^/]+(/versions/[^/]+)?"
_INFER: tuple[Role, ...] = ("infer",)
_METRICS: tuple[Role, ...] = ("metrics",)
_BOTH = (*_INFER, *_METRICS)
_HTTP: tuple[tuple[str, re.Pattern[str], tuple[Role, ...]], ...] = tuple(
    (method, re.compile(path), roles)
    for method, path, roles in (
        ("GET", r"/v2", _BOTH),
        ("POST", rf"{_MODEL}/(infer|generate|generate_stream)", _INFER),
        ("GET", rf"/v2/models/stats|{_MODEL}/stats", _BOTH),
        ("GET", rf"{_MODEL}(/ready|/config)?", _INFER),
        ("GET", r"/metrics", _METRICS),
        ("GET", r"/page/state", _BOTH),
        ("GET", r"/v1/models(/.+)?", _INFER),
        ("POST", r"/v1/(completions|chat/completions|embeddings)|/tokenize|/detokenize", _INFER),
    )
)
_GRPC: dict[str, tuple[Role, ...]] = {
    "ServerMetadata": _BOTH,
    "ModelReady": _INFER,
    "ModelMetadata": _INFER,
    "ModelConfig": _INFER,
    "ModelInfer": _INFER,
    "ModelStreamInfer": _INFER,
    "ModelStatistics": _BOTH,
}


def roles_of_http(method: str, path: str) -> tuple[Role, ...]:
    """Beside administrators; `path` as it is routed, decoded."""
    asked = "GET" if method == "HEAD" else method
    found = (roles for known, pattern, roles in _HTTP if known == asked and pattern.fullmatch(path))
    return next(found, ())


def roles_of_grpc(method: str) -> tuple[Role, ...]:
    """Of a call's full name, /SERVICE/METHOD."""
    service, _, name = method.rpartition("/")
    return _GRPC.get(name, ()) if service == "/inference.GRPCInferenceService" else ()


@dataclass(frozen=True)
class Key:
    """`sha256`: of the key, 64 lower-case hexadecimal digits; the key itself is nowhere kept."""

    name: str
    role: Role
    sha256: str


class Keys:
    """Nobody is asked for one where there are none."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def check(self, authorization: str | None, roles: Sequence[Role]) -> None:
        """`authorization`: the header's value, "Bearer KEY"; `roles`: whose it is beside administrators'. Raises
        RequestError."""
        if not self._keys:
            return
        found = self._found(authorization)
        if found is None:
            raise RequestError("unauthorized", "this server wants a key: send the header `Authorization: Bearer KEY`")
        if found.role not in (*roles, "admin"):
            needed = " or ".join((*roles, "admin"))
            raise RequestError("forbidden", f"this needs a key of the role {needed}, and yours is of {found.role}")

    def name_of(self, authorization: str | None) -> str:
        """Whose key it is; "" if it is nobody's."""
        found = self._found(authorization)
        return "" if found is None else found.name

    def _found(self, authorization: str | None) -> Key | None:
        scheme, _, given = (authorization or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode(errors="surrogateescape")).hexdigest()
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found and scheme.lower() == "bearer" else None


def the_key(key: str) -> Key:
    """One for everything."""
    return Key("api-key", "admin", hashlib.sha256(key.encode()).hexdigest())


def read_keys(file: Path) -> list[Key]:
    """Lines `NAME ROLE SHA256`, and comments behind #. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"--api-keys {file} cannot be read: {problem}") from None
    found: list[Key] = []
    for number, line in enumerate(lines, 1):
        if words := line.partition("#")[0].split():
            found.append(_key(words, f"{file}:{number}"))
    for what in ("name", "sha256"):
        values = [getattr(key, what) for key in found]
        twice = next((place for place, value in enumerate(values) if value in values[:place]), None)
        if twice is not None:
            raise ConfigError(f"{file}: {found[twice].name!r:.80} has the {what} of another line. Give each its own")
    if not found:
        raise ConfigError(f"{file} has no key: write lines NAME ROLE SHA256, or leave out --api-keys")
    return found


def _key(words: Sequence[str], place: str) -> Key:
    if len(words) != 3:
        raise ConfigError(f"{place}: {len(words)} words, and a key has three: NAME ROLE SHA256")
    name, role, digest = words
    if role not in ROLES:
        raise ConfigError(f"{place}: role {role!r:.80} must be one of {', '.join(ROLES)}")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(
            f"{place}: {digest!r:.80} is no SHA-256 in 64 lower-case hexadecimal digits. "
            "`printf %s KEY | sha256sum` makes it"
        )
    return Key(name, role, digest)
