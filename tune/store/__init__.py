"""Where a study's and its trials' files live.

folder.py  a study's files and lock
"""
