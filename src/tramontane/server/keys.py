"""Keys: who may call, kept as hashes in the database and shown once, when they are made."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tramontane.errors import ConfigError
from tramontane.server.quotas import QUOTA_NAMES
from tramontane.server.store.database import Database
from tramontane.server.store.tables import Key

RATES = ("requests_per_minute", "tokens_per_minute")
LIMITS = (*RATES, *QUOTA_NAMES)
"""Columns of a key that say how much it may use; None: as the server has it."""
SCOPES = frozenset(("inference", "files", "batch", "fine_tuning", "usage", "admin"))
TOKEN = re.compile(r"tm_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
OWNER = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What a new key allows. Keys of one `owner` see the same files and jobs; by default each has its own."""

    name: str
    owner: str | None = None
    scopes: Collection[str] = SCOPES - {"admin"}
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    max_files: int | None = None
    max_stored_bytes: int | None = None
    max_batches: int | None = None
    max_fine_tuning_jobs: int | None = None
    max_models: int | None = None
    expires_s: float | None = None

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name) <= 64:
            raise ConfigError("name of a key: 1 to 64 printable characters")
        if self.owner is not None and not OWNER.match(self.owner):
            raise ConfigError(f"owner {self.owner!r}: 1 to 64 letters, digits or any of ._@-")
        if unknown := sorted(set(self.scopes) - SCOPES):
            raise ConfigError(f"scope {unknown[0]!r} is unknown; use {', '.join(sorted(SCOPES))}")
        if not self.scopes:
            raise ConfigError("a key needs at least one scope")
        check_limits(self.limits)
        if self.expires_s is not None and not 1 <= self.expires_s < 2**31:
            raise ConfigError(f"expires_s={self.expires_s} must be a number from 1 up")

    @property
    def limits(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in LIMITS}


def create_key(database: Database, options: KeyOptions) -> tuple[Key, str]:
    """The row and the token. The token is nowhere else: whoever loses it needs a new key."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    now = time.time()
    key = Key(
        id=key_id,
        name=options.name,
        owner=options.owner or key_id,
        secret_hash=_hash(secret),
        scopes=sorted(options.scopes),
        **options.limits,
        created_at=now,
        expires_at=None if options.expires_s is None else now + options.expires_s,
    )
    with database.write() as session:
        session.add(key)
    return key, f"tm_{key_id}_{secret}"


def list_keys(database: Database) -> list[Key]:
    with database.read() as session:
        return list(session.scalars(select(Key).order_by(Key.created_at)))


def revoke_key(database: Database, key_id: str) -> Key:
    """It is refused from now on, within a second by servers that are running. Raises ConfigError if there is none."""

    def revoke(session: Session) -> Key:
        key = _get(session, key_id)
        key.revoked_at = key.revoked_at or time.time()
        return key

    return database.free(revoke)


def limit_key(database: Database, key_id: str, limits: Mapping[str, int | None]) -> Key:
    """Set what a key may use, by the names of LIMITS; None: as the server has it. Running servers heed it within a
    second. Raises ConfigError if there is no such key."""
    check_limits(limits)
    with database.write() as session:
        key = _get(session, key_id)
        for name, value in limits.items():
            setattr(key, name, value)
    return key


def _get(session: Session, key_id: str) -> Key:
    key = session.get(Key, key_id)
    if key is None:
        raise ConfigError(f"there is no key {key_id!r}; tramontane keys list shows them")
    return key


def check_limits(limits: Mapping[str, int | None]) -> None:
    """Raises ConfigError for a value that no limit can have."""
    for name, value in limits.items():
        lowest = 1 if name in RATES else 0
        if value is not None and not lowest <= value < (2**62 if name.endswith("_bytes") else 2**31):
            raise ConfigError(f"{name}={value} must be a number from {lowest} up")


def has_keys(database: Database) -> bool:
    """Whether any key was ever made. Revoked ones count: taking back the last key must not open the server."""
    with database.read() as session:
        return bool(session.scalar(select(func.count()).select_from(Key)))


def find_key(database: Database, token: str) -> Key | None:
    """The key this token belongs to, if it is still good. What is wrong with a bad one does not show, in time
    either: the id is looked up, and the hash of the secret, 256 random bits, is compared in constant time."""
    match = TOKEN.match(token)
    key_id, secret = match.groups() if match else ("", "")
    with database.read() as session:
        key = session.get(Key, key_id)
    is_right = hmac.compare_digest(key.secret_hash if key else NO_HASH, _hash(secret))
    return key if key is not None and is_right and is_valid(key) else None


def get_valid_key(database: Database, key_id: str) -> Key | None:
    """For work that was begun under a key and goes on without its token."""
    with database.read() as session:
        key = session.get(Key, key_id)
    return key if key is not None and is_valid(key) else None


def is_valid(key: Key) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > time.time())


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
