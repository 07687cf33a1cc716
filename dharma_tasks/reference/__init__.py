"""What the format's models say of themselves: `docs/reference.md`, and a JSON Schema a database.

`python -m dharma_tasks.reference` (`make reference`) writes both into the sources; a test fails
while they are not what it would write. Nothing here is needed when migrations run.
"""
