"""How sure a score is: reweighted AP50, intervals, differences with a verdict, the winner and
its luck, effects.

certainty.py   intervals, paired differences, verdicts, the smallest difference
choice.py      the winner of a confirmation, and its luck
effects.py     the effect of each searched setting on AP50
reweighted.py  AP50 of another sample of images, from the match table
"""
