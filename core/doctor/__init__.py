"""The data doctor: everything about a data set, before a search is started on it.

diagnosis.py   what a data set holds, what is unusual, what keeps it from being used, in lines
figures.py     sizes of instances against anchors, instances per image against caps
marks.py       instances that look wrong, one by one, with what mends each
page.py        the page: the same, shown on the images; page.html.jinja is its template
pictures.py    images with the outlines of their annotations, small enough for a page
repairs.py     repairs that need no judgement, and the repaired copy
"""
