"""`make chaos`: faults at random instants while migrations run, and the data compared after.

Read `campaign.py` first; `faults.py` says what is done to the processes, `generations.py`
what they work on and how it is compared, document by document, with what it must be.
"""
