"""The request of a search, and the space files in which it is written.

confounds.py  the factors in which two configurations differ, and what a difference can be
              attributed to
file.py       reads a space file and merges the command line into it
request.py    the request, read and checked
schema.py     the JSON schema of space files
sections.py   checks the sections of a space file that name settings
values.py     checks single values
"""
