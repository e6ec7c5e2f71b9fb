"""MLflow, a view of the ledger that can be written anew at any time; the only package that
speaks to it.

mlflow_runs.py       writes trials, retrainings and reports as runs of MLflow
registered_model.py  the code that MLflow runs when it loads a registered model
"""
