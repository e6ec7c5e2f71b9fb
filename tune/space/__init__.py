"""The search space of a study: parameters with their domains, or variants to compare.

domains.py  the values that a setting may have
space.py    parameters, variants, and the configurations that a space holds
"""
