"""Trackers, which show studies: MLflow, and those that other packages add to the table.

Each is a view of the ledger that can be written anew at any time. Only this package speaks to
MLflow.

mlflow_destination.py  the MLflow database or server, and how a person opens it
mlflow_errors.py       what MLflow's errors mean, and the way out
mlflow_models.py       retrainings as runs, and their models in MLflow's registry
mlflow_runs.py         trials and reports as runs
mlflow_tracker.py      MLflow as a tracker
mlflow_view.py         how MLflow's page of a study looks when it is opened
registered_model.py    the code that MLflow runs when it loads a registered model
thread.py              the thread that writes to a tracker, so that a search does not wait
tracker.py             what a tracker is, and the table of trackers
"""
