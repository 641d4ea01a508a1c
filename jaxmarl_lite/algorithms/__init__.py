"""One paper, one file, with its config; what they share stands beside them, and `registry` lists
them.
"""
