"""Leases count, where they were times of day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    with op.batch_alter_table("batch_jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_batch_jobs_status_lease_until")
        batch_op.drop_column("lease_until")
        batch_op.add_column(sa.Column("lease_count", sa.Integer(), nullable=False, server_default="0"))
        batch_op.create_index("ix_batch_jobs_status_lease_holder", ["status", "lease_holder"], unique=False)
    with op.batch_alter_table("batch_jobs", schema=None) as batch_op:
        batch_op.alter_column("lease_count", server_default=None)
