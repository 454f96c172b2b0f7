"""Quotas of keys, and the size of what batches keep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("keys", schema=None) as batch_op:
        for name in ("max_concurrent_requests", "max_files", "max_batches", "max_fine_tuning_jobs", "max_models"):
            batch_op.add_column(sa.Column(name, sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("batch_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("requests_bytes", sa.BigInteger(), nullable=False, server_default="0"))
