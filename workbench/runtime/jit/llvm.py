"""LLVM through llvmlite: text to object code. Imported when something is compiled, not before."""

from __future__ import annotations

import os
import platform
import threading
from contextlib import ExitStack
from functools import cache
from typing import Any

from workbench.errors import MissingCapability
from workbench.runtime.jit.flatten import Unresolved
from workbench.runtime.jit.unit import Options

__all__ = ("ENTRY", "host", "object_code", "version")

ENTRY = "program"  # the one function that is visible

_TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


@cache
def binding() -> Any:
    """`llvmlite.binding`, ready for this machine and for aarch64.

    Raises
    ------
    MissingCapability
        llvmlite is not installed.
    """
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise MissingCapability(
            "llvmlite is not installed, so programs cannot be compiled",
            "pip install 'bpf-workbench[runtime]'",
        ) from error
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()  # the inline assembly of system calls
    return llvm


@cache
def host() -> str:
    """This machine in the words of `Options.machine`.

    Raises
    ------
    MissingCapability
        A machine that the JIT has no triple for.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine()
    )
    if machine not in _TRIPLES:
        raise MissingCapability(
            f"the JIT knows x86_64 and aarch64, not {machine}",
            "run the program in the interpreter, or in the kernel with backend='kernel'",
        )
    return machine


def version() -> str:
    """Version of LLVM."""
    return ".".join(map(str, binding().llvm_version_info))


@cache
def _target_machine(options: Options) -> Any:
    llvm = binding()
    machine = options.machine
    cpu, features = "", ""
    if machine == host():
        cpu = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
    if not options.vectors:
        if machine == "x86_64":
            kept = [f for f in features.split(",") if f and f[1:] in _INTEGER]
            features = ",".join([*kept, "-mmx", "-sse", "-sse2", "-avx", "-x87"])
        else:
            features = "-neon,-fp-armv8"
            cpu = ""
    target = llvm.Target.from_triple(_TRIPLES[machine])
    return target.create_target_machine(
        cpu=cpu,
        features=features,
        opt=3 if options.optimised else 0,
        reloc="pic",
        codemodel="small",
    )


#: x86 features that need no vector register.
_INTEGER = frozenset(
    {"64bit", "adx", "bmi", "bmi2", "cmov", "cx16", "cx8", "fsgsbase"}
    | {"lzcnt", "movbe", "popcnt", "prfchw", "rdpid", "rdrnd", "rdseed", "sahf"}
)


_busy = threading.Lock()
# A child of fork that began while a thread compiled would inherit LLVM in the middle of something.
os.register_at_fork(
    before=_busy.acquire, after_in_parent=_busy.release, after_in_child=_busy.release
)


def object_code(text: str, options: Options, bitcode: tuple[bytes, ...] = ()) -> bytes:
    """Compile a module's text to an ELF object.

    Parameters
    ----------
    text : str
        LLVM IR.
    options : Options
    bitcode : tuple of bytes
        Modules to link in before it is optimised.
    """
    # Closed here, in this order: the collector may find a module after the context that it lives in is gone.
    with _busy, ExitStack() as owned:
        return _object_code(text, options, bitcode, owned)


def _object_code(
    text: str, options: Options, bitcode: tuple[bytes, ...], owned: ExitStack
) -> bytes:
    llvm = binding()
    target = _target_machine(options)
    context = llvm.create_context()
    owned.callback(context.close)
    module = llvm.parse_assembly(text, context)
    owned.callback(module.close)
    module.triple = _TRIPLES[options.machine]
    module.data_layout = str(target.target_data)
    for other in bitcode:
        try:
            linked = llvm.parse_bitcode(other, context)
            owned.callback(linked.close)
            # Two files may hold the same table of functions: only what the text names may meet in one module.
            for one in (*linked.functions, *linked.global_variables):
                if not one.is_declaration and f"@{one.name}" not in text:
                    one.linkage = "internal"
        except RuntimeError as error:
            raise Unresolved(f"bitcode of another LLVM ({error})") from error
        linked.triple, linked.data_layout = module.triple, module.data_layout
        try:
            module.link_in(linked)
        except RuntimeError:
            linked.detach()  # LLVM has destroyed it
            raise
    if bitcode:
        for function in module.functions:
            if not function.is_declaration and function.name != ENTRY:
                function.linkage = "internal"
        for variable in module.global_variables:
            if not variable.is_declaration:
                variable.linkage = "internal"
        unused = llvm.create_new_module_pass_manager()
        owned.callback(unused.close)
        unused.add_global_dead_code_eliminate_pass()  # or all of it would be optimised first
        plain = llvm.create_pipeline_tuning_options(speed_level=0)
        owned.callback(plain.close)
        first = llvm.create_pass_builder(target, plain)
        owned.callback(first.close)
        unused.run(module, first)
    if options.optimised:
        tuning = llvm.create_pipeline_tuning_options(speed_level=3)
        owned.callback(tuning.close)
        tuning.loop_vectorization = options.vectors
        tuning.slp_vectorization = options.vectors
        tuning.loop_interleaving = True
        tuning.loop_unrolling = True
        builder = llvm.create_pass_builder(target, tuning)
        owned.callback(builder.close)
        passes = builder.getModulePassManager()
        owned.callback(passes.close)
        passes.run(module, builder)
    return bytes(target.emit_object(module))
