"""`python -m dharma_tasks …`: the same as `dharma …`."""

from dharma_tasks.cli import main

main(prog_name="python -m dharma_tasks")
