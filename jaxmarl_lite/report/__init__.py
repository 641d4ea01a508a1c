"""Host-side reporting: metrics, statistics, checkpoints, loggers, plots, tables and run folders.

Import the modules by name (``from jaxmarl_lite.report import checkpoint``); nothing here is needed
to train.
"""
