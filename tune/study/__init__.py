"""A study's life: its request is checked, its trials are run, its best ones confirmed, its
progress shown.

automatic.py     the values that `auto` stands for, kept with the study
candidates.py    the candidates of a confirmation, and the trials that are continued for it
conductor.py     runs a study from its first trial to its last, confirmation included
confirmation.py  the best of a search run again on fresh seeds and splits
duration.py      how long a study will take, and how much of that is left
going_on.py      what a study that goes on may ask for: all that it has, and more
learned.py       whether anything was learned, and what to do if not
options.py       where files are, and what the trials may use
pace.py          how long an epoch takes on this machine, measured before the study
plan.py          a request checked against the data, the weights and the machine
progress.py      the table, bars and lines that are shown while a command runs
reading.py       a study as its folder and its ledger have it
rebuild.py       MLflow written anew from the ledger
trials.py        what a study's trials start from, and what makes them in the workers
"""
