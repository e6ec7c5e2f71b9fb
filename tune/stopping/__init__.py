"""Early stopping: whether a trial goes on, judged by learning curves alone.

halving.py  asynchronous successive halving, and an end to trials without hope
"""
