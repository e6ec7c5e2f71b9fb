"""The ledger: an Optuna study in a database that holds every trial, the truth of a study.

records.py       a trial as the ledger has it, and the names under which Optuna stores it
storage.py       a ledger's database, opened to be read or written; each write is one transaction
server.py        a ledger in a database server: its connections, the making of its tables
damage.py        the error for what a ledger holds and no driver can have written
claim.py         the right to write a study, held by one process at a time
holder.py        the process that holds a study's claim, as others see it
runs.py          the last run of a study: where its driver is, and how it ended
ledger.py        the trials of a study as its driver runs them: the next one, reports, verdicts
proposals.py     the settings of the next trial, before it is in the ledger
posterior.py     the AP50 that settings like each trial's reach, estimated from all trials together
orders.py        orders of people to a study that runs: stop a trial, try one again, end for now
selections.py    the trials that a search has chosen for its confirmation
warm_start.py    the trials of another study from which a study began
growth.py        trials of one study whose spaces differ, because the space has grown
reading.py       a study as other processes read it, also while it runs
importances.py   Optuna's importance of each searched setting
"""
