"""Run an object in the kernel: libbpf binding, maps, links, ring reader, perf events, optional bcc backend.

Nothing here knows a collector or a frame schema. Whatever is opened here is closed by `with` or `close()`.
"""
