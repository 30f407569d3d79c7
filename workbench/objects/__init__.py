"""BPF objects: compile CO-RE C with clang, read ELF and BTF, turn record structs into numpy dtypes.

One model for both backends. Built objects live in `objects/built` and ship in the wheel.
"""
