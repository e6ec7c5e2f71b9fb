"""The files of a study and its trials, and where they are.

folder.py  the paths of a study's files, and its locks
"""
