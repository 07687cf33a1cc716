"""The four real engines on this machine without Docker: Redis and the three databases.

    from dharma_tasks.local import LocalEngines

    engines = LocalEngines(Path(".local"))
    engines.up()
    os.environ.update(engines.environment())

The same on the command line: `python -m dharma_tasks.local up | down | status | env`.
"""

from dharma_tasks.local.base import EngineError
from dharma_tasks.local.engines import ENGINES, EngineStatus, LocalEngines

__all__ = ["ENGINES", "EngineError", "EngineStatus", "LocalEngines"]
