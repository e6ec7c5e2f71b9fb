"""When a trial is stopped early, read from learning curves alone.

halving.py  when a trial is stopped early
"""
