"""What is searched: domains, variants, requests, and the space files that ask for them.

confounds.py  what differs between two configurations, and what a difference can be attributed to
file.py       reads a space file and merges the command line into it
request.py    a search as it was asked for
schema.py     the JSON schema of space files
sections.py   what its sections mean, and what may not be in them
space.py      what is searched
values.py     single values, checked
"""
