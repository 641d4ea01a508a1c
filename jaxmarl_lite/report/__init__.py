"""Host-side reporting: metrics, statistics, checkpoints, writers, plots, tables and run folders.

Import the modules by name (``from jaxmarl_lite.report import checkpoint``); nothing here is needed
to train.
"""
