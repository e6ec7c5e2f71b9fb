"""How sure a score is: intervals, differences with a verdict, the winner, effects of settings.

certainty.py   intervals, paired differences, verdicts, the smallest difference
choice.py      the winner of a confirmation, and its luck
epochs.py      the luck in the score of a best epoch, which was chosen by its score
effects.py     the effect of each searched setting on AP50
further.py     how many further seeds, or images, would decide a comparison
"""
