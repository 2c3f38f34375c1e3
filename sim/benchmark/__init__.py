"""`make bench`: what the array reaches, in cycles of the RTL. Nothing here is an estimate.

vit.py, models.py   the networks, and their export by torch
rows.py             measurements: a row for each model and configuration
__main__.py         which rows, the table, build/bench/bench.json
"""
