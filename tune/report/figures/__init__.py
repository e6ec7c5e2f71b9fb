"""The figures of a report, one file each, and their table.

backbones.py     AP50 by backbone
classes.py       AP50 of each class in the best trial
confirmation.py  the search's scores of the candidates against the confirmed ones
curves.py        AP50 and loss after each epoch
differences.py   each row of the main table against its counterpart
examples.py      pictures of predictions
figure.py        what a figure is, and the table of figures
history.py       AP50 of trials in their order, the best so far, and what the confirmation said
intervals.py     lines with a label and a point with its interval, which several figures draw
limits.py        what became of the annotated instances of each class
parallel.py      each trial as a line through its settings to its AP50
scores.py        AP50 of each row of the main table
settings.py      AP50 against each searched setting, and the effects of settings
stopped.py       when trials ended
"""
