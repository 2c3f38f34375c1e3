"""Notebooks and their images; on a board `pynq get-notebooks vitessera` copies them to Jupyter.

PYNQ finds this folder by the entry point `pynq.notebooks` in pyproject.toml.
"""
