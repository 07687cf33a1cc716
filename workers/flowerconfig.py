"""Flower's configuration. Flower finds it in the folder that it is started in, or by `--conf`.

What is not said here comes from Flower's own variables, such as FLOWER_PORT and FLOWER_URL_PREFIX.
"""

import os

# user:password, more after a comma. Without it only this machine may look.
_protected = "FLOWER_BASIC_AUTH" in os.environ or "FLOWER_AUTH" in os.environ
address = os.environ.get("FLOWER_ADDRESS", "" if _protected else "127.0.0.1")

# To look, not to touch: a task that is revoked here would only be sent again.
read_only = True

# What ran stays visible when Flower is started again.
persistent = True
db = os.environ.get("FLOWER_DB", "flower")
state_save_interval = 10_000  # milliseconds
max_tasks = 10_000

# A task's arguments say which operation of which migration it is.
tasks_columns = "name,args,state,received,started,runtime,worker"
natural_time = False
