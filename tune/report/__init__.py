"""The report of a study: numbers, then words, tables and figures of them, then one page.

__main__.py      the command line
curves.py        of them, what happened while trials trained
evidence.py      all numbers of a report
examples.py      pictures of predictions
figures.py       its figures
findings.py      numbers, words and tables together
marks.py         points with intervals
page.py          the page, and its command line; page.html.jinja is its template
rows.py          the rows of the main table, compared
sentences.py     its words
svg.py           figures as text that follow the page's theme
tables.py        its tables
trial_scores.py  how sure a trial's score is
"""
