"""MLflow, a view of the ledger that can be written anew at any time; the only package that speaks to it.

mlflow_runs.py       MLflow, a view of the ledger
registered_model.py  what MLflow runs when it loads the winner
"""
