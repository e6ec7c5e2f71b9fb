"""How sure a score is: intervals, differences with a verdict, the winner, effects of settings.

certainty.py   intervals, paired differences, verdicts, the smallest difference
choice.py      the winner of a confirmation, and its luck
epochs.py      how much too high a best epoch is for having been chosen
effects.py     the effect of each searched setting on AP50
further.py     how many further seeds, or images, would decide a comparison
"""
