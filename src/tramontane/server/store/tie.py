"""The tie of folders to their database: one store id in both, and when both were last in use together.

A server that cannot tell "left by a crash" from "this is not the database of this folder" would throw away everything.
So nothing is served, and nothing swept, before database and folders are known to belong together. The time tells an
older copy, put back from a backup, from the one that the folder went on with.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import IntegrityError

from tramontane import durable
from tramontane.errors import ConfigError
from tramontane.server.store.contents import FULL
from tramontane.server.store.database import Database
from tramontane.server.store.errors import DiskFullError
from tramontane.server.store.id_folder import Entry, IdFolder
from tramontane.server.store.tables import Store

log = logging.getLogger(__name__)

TIE = "store.json"
MAX_UNKNOWN_SHARE = 0.1
"""Of the entries of a folder without a tie (version 0.2.0 made none): so many may be left by a crash."""
REMEDY = "point to the one that belongs to it, or move it there; tramontane adopt says what going on would keep"


@dataclass(frozen=True, slots=True)
class Tie:
    store_id: str
    used_at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Rows:
    """Ids of rows: of those whose entry may lie in a folder, and of those whose entry has to, with the size in bytes
    that it has to have, where one is known."""

    known: frozenset[str]
    needed: Mapping[str, int | None]

    def missing(self, there: Mapping[str, Entry]) -> set[str]:
        """Of what is needed, what is not `there`, or not whole."""
        return {
            entry_id
            for entry_id, size_bytes in self.needed.items()
            if entry_id not in there or size_bytes not in (None, there[entry_id].size_bytes)
        }


class Keeper(Protocol):
    """Whose rows are in the database, and whose entries in a folder."""

    @property
    def entries(self) -> IdFolder: ...
    def rows(self) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a database finds in a folder: how many entries have a row, have none, lie in the trash and have a row, and
    are needed but not there."""

    what: str
    folder: str
    num_known: int
    num_unknown: int
    num_in_trash: int
    num_missing: int


def require_tie(database: Database, keepers: Sequence[Keeper]) -> None:
    """Tie what is new, and renew the tie of what belongs together. Raises ConfigError, with nothing changed, for a
    database and a folder that do not."""
    ties = [read_tie(keeper.entries) for keeper in keepers]  # before the database's, which is written first
    own = database_tie(database)
    for keeper, theirs in zip(keepers, ties, strict=True):
        problem = _problem(keeper, own, theirs)
        if problem is not None:
            raise ConfigError(f"{database.name} and {keeper.entries.name} do not belong together: {problem}; {REMEDY}")
        if theirs is not None and (own is None or own.store_id != theirs.store_id):
            log.warning(
                "%s was in use with another database until %s, and is empty: it is that of %s from now on",
                *(keeper.entries.name, _shown(theirs.used_at), database.name),
            )
    try:
        renew_tie(database, keepers)
    except DiskFullError:
        if own is None or any(theirs is None for theirs in ties):
            raise
        log.warning("the disk is full: the tie of %s was not renewed", database.name)


def renew_tie(database: Database, keepers: Sequence[Keeper]) -> None:
    """Note in both, the database first, that they are in use together now."""
    tie = _renew(database)
    for keeper in keepers:  # a time ahead of the database's, of an older copy that was adopted, falls back with this
        write_tie(keeper.entries, tie)


def holds_tie(database: Database, keepers: Sequence[Keeper]) -> bool:
    """Whether all still have the same id, and none a later time than the database: neither was exchanged while the
    server runs, nor for an older copy."""
    ties = [read_tie(keeper.entries) for keeper in keepers]
    own = database_tie(database)
    return own is not None and all(
        tie is not None and tie.store_id == own.store_id and tie.used_at <= own.used_at for tie in ties
    )


def tell_missing(database: Database, keepers: Sequence[Keeper]) -> None:
    """One line in the log for each folder that lacks something: a copy that was cut short, or what was adopted so."""
    for keeper in keepers:
        if num_missing := survey(keeper).num_missing:
            log.warning(
                "%d %s that %s lists are not whole in %s; put them back (tramontane adopt --check counts them)",
                *(num_missing, keeper.entries.what, database.name, keeper.entries.name),
            )


def survey(keeper: Keeper) -> Adoption:
    rows = keeper.rows()
    there, trashed = keeper.entries.entries(), keeper.entries.trashed()
    return Adoption(
        what=keeper.entries.what,
        folder=keeper.entries.name,
        num_known=len(there.keys() & rows.known),
        num_unknown=len(there.keys() - rows.known),
        num_in_trash=len(rows.known & trashed.keys() - there.keys()),
        num_missing=len(rows.missing(there) - (trashed.keys() - there.keys())),
    )


def database_tie(database: Database) -> Tie | None:
    with database.read() as session:
        row = session.get(Store, 1)
    return None if row is None else Tie(row.store_id, row.used_at)


def read_tie(folder: IdFolder) -> Tie | None:
    """Raises ConfigError for one that cannot be read."""
    path = f"{folder.root}/{TIE}"
    try:
        found = json.loads(folder.fs.cat_file(path))
        return Tie(str(found["store_id"]), float(found["used_at"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder.name}/{TIE} is damaged; tramontane adopt writes it anew") from None


def write_tie(folder: IdFolder, tie: Tie) -> None:
    path = f"{folder.root}/{TIE}"
    text = json.dumps({"store_id": tie.store_id, "used_at": tie.used_at})
    if folder.is_local:
        try:
            durable.write(Path(path), text)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFullError(f"the disk of {folder.name} is full") from None
            raise
    else:
        folder.fs.pipe_file(path, text.encode())


def _renew(database: Database) -> Tie:
    try:
        with database.write() as session:
            row = session.get(Store, 1, with_for_update=True)
            if row is None:
                row = Store(number=1, store_id=str(uuid.uuid4()), used_at=0.0)
                session.add(row)
            row.used_at = max(time.time(), row.used_at + 0.001)  # a clock that goes back makes nothing look older
            return Tie(row.store_id, row.used_at)
    except IntegrityError:  # another server was first
        return _renew(database)


def _problem(keeper: Keeper, own: Tie | None, theirs: Tie | None) -> str | None:
    is_tied = own is not None and theirs is not None and own.store_id == theirs.store_id
    if own is not None and theirs is not None and is_tied:
        if theirs.used_at > own.used_at:
            return (
                f"the folder was in use on {_shown(theirs.used_at)}, the database only until {_shown(own.used_at)}: "
                "it is an older copy"
            )
        if theirs.used_at == own.used_at:
            return None
    rows, there = keeper.rows(), keeper.entries.entries()
    missing = rows.missing(there)
    if missing:  # but not those that another server has deleted meanwhile
        missing &= keeper.rows().needed.keys()
    what, num_missing = keeper.entries.what, len(missing)
    if theirs is not None and not is_tied and (there or rows.needed):
        return f"the folder, with {len(there)} {what}, is that of another database"
    if num_missing and not there:
        return f"the database lists {len(rows.needed)} {what}, and none is there"
    if num_missing:
        return f"{num_missing} of the {len(rows.needed)} {what} that the database lists are not there, or not whole"
    num_unknown = len(there.keys() - rows.known)
    if theirs is None and (num_unknown > math.ceil(MAX_UNKNOWN_SHARE * len(there)) or num_unknown == len(there) > 0):
        return f"of the {len(there)} {what} that are there, the database knows {len(there) - num_unknown}"
    return None


def _shown(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
