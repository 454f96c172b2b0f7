"""Files know the key they came with, and batches how long their results are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Until now every key of the owner saw every file; what is there stays so.
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("key_id", sa.String(length=36), nullable=False, server_default=""))
    op.execute("UPDATE files SET visibility = 'workspace'")
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.alter_column("key_id", server_default=None)
    with op.batch_alter_table("batch_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("output_expires_s", sa.Integer(), nullable=True))
