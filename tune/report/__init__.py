"""The report of a study: numbers, then their words, tables and figures, then one page.

__main__.py       the command line, `python -m tune.report`
class_limits.py   what limited each class in the rows of the main table
contact_sheet.py  the images that were searched on, with their outlines
content.py        the content of a report: numbers, sentences and tables
data_table.py     the data at a glance: images, instances, classes, sizes, split
evidence.py       all numbers of a report
further.py        the seeds, with their cost, or the images that would decide open comparisons
main_table.py     the rows of the main table, compared
page.py           the page, its tables and figures as files; page.html.jinja is its template
sentences.py      the sentences of a report
tables.py         the tables of a report
trial_scores.py   how sure a trial's score is

The figures, one file each, and their table are in `tune.report.figures`.
"""
