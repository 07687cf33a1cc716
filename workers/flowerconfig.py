"""Flower's configuration. Flower finds it in the folder that it is started in, or by `--conf`.

What is not said here comes from Flower's own variables, such as FLOWER_PORT and FLOWER_URL_PREFIX.
"""

import os
import sys

from tornado.options import options

# Nobody looks without a login. Flower has read its variables and the command line by now.
if not (options.auth or any(":" in login for login in options.basic_auth or ())):
    sys.exit(
        "Flower needs a login: set FLOWER_BASIC_AUTH=user:password (more after a comma), or "
        "FLOWER_AUTH with one of Flower's OAuth providers."
    )

# To look, not to touch: a task that is revoked here would only be sent again.
read_only = True

# What ran stays visible when Flower is started again.
persistent = True
db = os.environ.get("FLOWER_DB", "flower")
state_save_interval = 10_000  # milliseconds
max_tasks = 10_000

# A task's arguments say which operation of which migration it is.
tasks_columns = "name,args,state,runtime,worker,received"
natural_time = False
