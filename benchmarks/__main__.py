"""`make bench`: run every benchmark; not zero where one misses its limit."""

from __future__ import annotations

import sys

from benchmarks import small_migrations

sys.exit(small_migrations.main())
