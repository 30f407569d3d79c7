"""Experiments: notebooks executed in batch, their numbers collected and checked against claims.

`experiment` reads a YAML file, `sweep` runs its points on a pool of `worker` processes (`cache` says which need not),
`execution` runs the cells of one notebook on a kernel and ends both cleanly, `reproduce` judges a paper's claims.
"""
