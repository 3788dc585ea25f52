"""Searches: sweeps whose next jobs are chosen by what earlier ones gave, by Optuna, with pruning.

`settings` and `space` are light; the other modules import Optuna, which the extra `search` brings.
"""
