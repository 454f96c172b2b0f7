"""State: the database of a server and the folders that belong to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tramontane.server.files.files import Files
from tramontane.server.fine_tuning.jobs import FineTuningJobs
from tramontane.server.quotas import Quotas
from tramontane.server.settings import ServerSettings
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.serving import alone
from tramontane.server.store.tie import Keeper, renew_tie, require_tie, tell_missing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    database: Database
    files: Files
    fine_tuning_jobs: FineTuningJobs

    @property
    def keepers(self) -> Sequence[Keeper]:
        return (self.files, self.fine_tuning_jobs)

    def adopt(self) -> None:
        """Tie the folders to the database, whatever they were tied to, with what it knows back from their trash. Raises
        ConfigError while a server uses it."""
        engine = self.database.engine
        with engine.connect() as connection, alone(engine.url, connection):
            for keeper in self.keepers:
                keeper.entries.restore(keeper.rows().known)
            self.fine_tuning_jobs.take_over()
            renew_tie(self.database, self.keepers)

    def tell_missing(self) -> None:
        """One line in the log for each kind of what the database lists and this server does not have."""
        tell_missing(self.database, self.keepers)
        num_jobs, num_models = self.fine_tuning_jobs.elsewhere()
        if num_jobs or num_models:
            log.warning(
                "%d unfinished fine-tuning jobs and %d fine-tuned models of %s lie in other state folders; if no other "
                "server has them, put their folders into %s and run tramontane adopt",
                *(num_jobs, num_models, self.database.name, self.fine_tuning_jobs.entries.name),
            )


def open_state(settings: ServerSettings, *, untied: bool = False) -> State:
    """Raises ConfigError for a database that cannot be used and, unless `untied`, for one that the folders do not
    belong to."""
    database = open_database(settings.resolved_database_url, serving=not untied)
    quotas = Quotas(settings.quotas)
    try:
        state = State(
            database,
            Files(
                database,
                ContentStore(settings.state_folder, settings.files_url, has_room=lambda: database.has_room),
                quotas,
            ),
            FineTuningJobs(
                database,
                settings.state_folder / "fine_tuning",
                is_only_place=settings.files_url is None,
                quotas=quotas,
            ),
        )
        if not untied:
            require_tie(database, state.keepers)
            if settings.files_url is None and any(state.fine_tuning_jobs.elsewhere()):  # the only place has all
                state.fine_tuning_jobs.take_over()
    except BaseException:
        database.close()
        raise
    return state
