"""A study's life: checked against the world, run, confirmed, shown, rebuilt.

conductor.py     a study's life
confirmation.py  the best of a search again, on fresh seeds and splits
learned.py       whether anything was learned, and what to do where not
plan.py          a request checked against data, weights and machine
progress.py      what is shown while it runs
rebuild.py       MLflow written anew from the ledger
"""
