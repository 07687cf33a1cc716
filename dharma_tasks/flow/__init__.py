"""What each task does, without Celery: survey -> plan -> begin -> operation -> what is ready.

    context     what every step needs: the settings, Redis, this thread's databases
    planning    survey -> plan -> begin
    operation   confirm -> operation -> what is ready
    turning     back from an operation that failed, or whose run is cancelled
    asked       what a person asks of a worker: the journal, a lease to break, a declaration, …

Every step returns the chains to send next; a chain is a list of messages of which each is
sent when the one before it has done its part. `StepAside` means: do not send the rest.
Messages are hints (Law 1): each step asks the run's record and the journal what is true.
"""
