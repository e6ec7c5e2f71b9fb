"""The Optuna study in a database that holds every trial: the truth of a study.

ledger.py  the Optuna study: what is next, what came of it
"""
