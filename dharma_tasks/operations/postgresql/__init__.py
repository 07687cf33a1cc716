"""PostgreSQL's operations. A migration is one .sql file, and the file is one operation."""

from __future__ import annotations

from dharma_tasks.operations.base import Advisor, Catalogue
from dharma_tasks.operations.postgresql import squawk
from dharma_tasks.operations.postgresql.files import described, read
from dharma_tasks.operations.postgresql.kinds import KINDS

__all__ = ["catalogue"]

catalogue = Catalogue(
    database="postgresql",
    operations=KINDS,
    keys=frozenset({"transactional", "batch"}),
    read=read,
    backup='pg_dump --format=custom --file=before.dump "$DHARMA_POSTGRESQL_URL"',
    companion=".sql",
    advisor=Advisor(squawk.missing, squawk.findings),
    unit="row",
    described=described,
)
