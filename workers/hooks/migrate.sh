#!/bin/sh
# Migrate before a deployment goes on: for a release script, a git hook, a Capistrano task, any step
# that stops where a command fails.
#
#     DHARMA_REDIS_URL=redis://… DHARMA_SIGNING_KEY=… sh migrate.sh    and options, such as --timeout 600
#
# It needs `dharma` on its PATH and Redis, and no more: the databases' credentials live with the
# workers. Migrations are in ./migrations, or where DHARMA_MIGRATIONS_DIR says.
#
# The exit status is submit's: 0 go on; 1 a migration failed; 2 refused, nothing was changed; 3 it
# stopped waiting (Ctrl-C, --timeout), and the run goes on without it; 4 Redis or the workers cannot be
# reached; 5 cancelled. After a 3 the new code must wait: run this again, and it joins the run. For code
# that can do without, `sh migrate.sh --timeout 600 || [ $? -eq 3 ]` deploys while bulk work goes on.
set -eu

# Who deploys, for the audit trail. Under sudo that is who typed it.
by=${DHARMA_BY:-${SUDO_USER:-$(id -un 2>/dev/null || id -u)}@$(uname -n)}

# exec, so that a signal reaches submit, and the status is its own.
exec dharma submit --target latest --by "$by" "$@"
