"""What kept responses take of their owner's quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    with op.batch_alter_table("responses", schema=None) as batch_op:
        batch_op.add_column(sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.create_index(op.f("ix_responses_owner_size_bytes"), ["owner", "size_bytes"])
    op.execute("UPDATE responses SET size_bytes = length(CAST(input AS TEXT)) + length(CAST(body AS TEXT))")
