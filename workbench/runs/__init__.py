"""Experiments: notebooks executed in batch, their numbers collected and checked against claims."""
