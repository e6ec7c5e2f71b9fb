"""The retraining of a study's winner: it is trained again, tried with prediction settings, and
written to `best/`.

ensemble.py  the models of the confirmation, put together
outputs.py   the submission and the pictures
plan.py      the choice of the trial, and the check of its retraining
run.py       the training, and the writing of `best/`
"""
