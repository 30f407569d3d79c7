"""Demonstrations on real servers: a module per server says how it is run, where its bottleneck is and how that is
taken out; `measure` predicts with SchedCoz and then really takes it out, in turns. A new server is a new module and
one line in `catalogue`.
"""
