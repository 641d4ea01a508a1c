"""Learning algorithms, one module and one config for each paper.

Code that several algorithms use is in modules beside them; `registry` lists the algorithms by name.
"""
