"""A study's life: a request is checked, its trials run, its best are confirmed, progress is shown.

asking.py        orders of people to a study, refused where they make no sense
automatic.py     the values that `auto` stands for, kept with the study
candidates.py    the candidates of a confirmation, and the trials that are continued for it
conductor.py     runs a study from its first trial to its last, confirmation included
confirmation.py  the best of a search run again on fresh seeds and splits
duration.py      how long a study will take, and how much of that is left
going_on.py      the rules for a study that is continued: it may grow, and not shrink or change
learned.py       whether anything was learned, and what to do if not
limits.py        budgets and orders that end a run before its last trial
options.py       the options of a command: folders, addresses and limits
other_study.py   what a new study takes from another one, and what does not compare
pace.py          how long an epoch takes on this machine, measured before the study
plan.py          a request checked against the data, the weights and the machine
pretrained.py    the pretrained weights with which the trials begin
progress.py      the table, bars and lines that are shown while a command runs
reading.py       reads a study from its folder and its ledger
rebuild.py       writes MLflow anew from the ledger
screen.py        the words of `tune.status`: a study on one screen or one line
scores.py        how sure a trial's score is, from its match table
standing.py      a study as it stands, read quickly and from wherever its ledger is reached
trials.py        the inputs of a study's trials, and the object that builds trials in the workers
"""
