"""Collectors: recipes that turn one kind of event of a running target into frames.

Each collector is a BPF object, its attach points and the frame schemas it fills. To add one, write a module with a
`Collector` (see `base.py`) and register it in `registry.py`; the recorder, the CLI and the magics pick it up.
"""
