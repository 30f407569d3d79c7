"""Helpers: what BPF programs may call, and the user-space implementations of it.

`prototypes` says for every helper of the kernel what it takes and gives and whether user space has it; the C is in
`workbench/native/runtime/helpers_*.c`. A new helper is a C function, a row in table.c and a name in `model.USERSPACE`.
"""
