"""The retraining of a study's winner: it is trained again, tried with prediction settings, and
written to `best/`.

plan.py  the choice of the trial, and the check of its retraining
run.py   the training, the submission and the pictures
"""
