"""The search space of a study: domains, variants, requests, and the space files that ask for them.

confounds.py  the factors in which two configurations differ, and what a difference can be
              attributed to
file.py       reads a space file and merges the command line into it
request.py    everything that a search is asked to do
schema.py     the JSON schema of space files
sections.py   the sections of a space file that name settings, checked
space.py      parameters with their domains, or variants to compare
values.py     single values, checked
"""
