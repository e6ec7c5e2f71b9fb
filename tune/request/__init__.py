"""Everything that a search is asked to do, and the space files that say it.

confounds.py  the factors in which two configurations differ, and what a difference can be
              attributed to
file.py       reads a space file and merges the command line into it
request.py    a request in full
schema.py     the JSON schema of space files
sections.py   the sections of a space file that name settings, checked
values.py     single values, checked
"""
