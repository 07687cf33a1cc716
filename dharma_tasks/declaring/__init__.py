"""What a person declares to be true of a database, where nothing is carried out: pure functions.

    proposal   what becomes of which migration, for people and for the journal
    baseline   a database that is there already is taken over up to a version
    repair     one migration: its failure forgotten, or declared to be there, gone, or changed

The journal's side of it is `Journal.declare`.
"""
