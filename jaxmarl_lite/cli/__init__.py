"""The commands of the command line; their options are generated from typed dataclasses."""
