"""The small C core: what must be fast or must use atomics. Loaded by ctypes on first use, never at import.

Every function is portable C11, takes only plain memory and is tested under ASan and UBSan. Keep it small.
"""
