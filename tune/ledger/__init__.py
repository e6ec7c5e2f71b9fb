"""The Optuna study in a database that holds every trial: the truth of a study.

ledger.py  the Optuna study: the next trial to start, the reports that come in, and whether a trial
           goes on
"""
