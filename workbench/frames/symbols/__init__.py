"""From addresses to names: ELF symbol tables, JIT maps, the kernel's symbols, lines and inlined calls.

`mappings` knows which file was mapped where, in which process, when; `elf` knows the functions and data objects of
one file; `symbolizer` joins them for whole columns of addresses. Everything is vectorised: unique addresses first,
one binary search per file. Add a source of names (another JIT's map, say) as a module of its own that offers
`find`, and call it from `symbolizer`.
"""
