"""Which settings are tried next.

gaussian.py  which settings are tried next
"""
