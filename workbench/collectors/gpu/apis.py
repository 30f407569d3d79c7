"""The GPU API functions that are hooked, and what each of their parameters is. Data only; `signature.py` reads it.

One function per line: KIND[:DETAIL] NAME PARAMETER... [-> RESULT]

KIND is launch, copy, fill, prefetch, alloc, free, sync, other, name (a function that ties a kernel's handle to its
name) or retain (one more reference to an allocation). DETAIL is the direction of a copy where the function fixes it,
the kind of memory for alloc.

A PARAMETER is its role, or ``-`` where it is of no interest:

``role``        8 bytes; ``role/4`` is 32 bits wide
``role:dim3``   a CUDA ``dim3`` by value: role_x, role_y, role_z
``*role``       a pointer through which the callee stores the value; read when it returns
``&LAYOUT``     a pointer to a struct of `LAYOUTS`; ``&LAYOUT!`` is read when it returns
``=LAYOUT``     that struct by value

Roles: bytes (several multiply), pointer (device pointer, memory object or kernel), source (of a copy), stream, grid_x
to block_z, direction (enum cudaMemcpyKind), dimensions (of an OpenCL work size), from and to (CUmemorytype), code (an
error code stored through a pointer), text (a kernel's name).

RESULT is ``code`` (the default: 0 is success), ``handle`` (null is failure; it is the allocation's or kernel's
handle), ``address`` (null is failure, and it is not a handle) or ``void``.

Prototypes: cuda_runtime_api.h and cuda.h of CUDA 13.0, cl.h of OpenCL 3.0.
"""

from __future__ import annotations

__all__ = ("DRIVER", "LAYOUTS", "OPENCL", "RUNTIME", "SUFFIXES")

SUFFIXES = {"runtime": ("", "_ptsz", "_ptds"), "driver": ("", "_ptsz", "_ptds"), "opencl": ("",)}
"""Endings of the variants for the per-thread default stream; they take the same parameters."""

LAYOUTS: dict[str, tuple[int, str]] = {
    # cudaLaunchConfig_t, CUlaunchConfig
    "launch": (56, "grid_x/4@0 grid_y/4@4 grid_z/4@8 block_x/4@12 block_y/4@16 block_z/4@20 stream@32"),
    "pitched": (32, "pointer@0 bytes@8"),  # cudaPitchedPtr: the pitch times what `rows` says
    "target": (32, "pointer@0"),  # cudaPitchedPtr, its pointer alone
    "extent": (24, "bytes@0 bytes@8 bytes@16"),  # cudaExtent
    "rows": (24, "bytes@8 bytes@16"),  # cudaExtent, height and depth
    "copy3d": (160, "source@32 pointer@96 bytes@128 bytes@136 bytes@144 direction/4@152"),  # cudaMemcpy3DParms
    "copy3dpeer": (168, "source@32 pointer@104 bytes@144 bytes@152 bytes@160"),  # cudaMemcpy3DPeerParms
    # CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER
    "cucopy2d": (128, "from/4@16 source@32 to/4@72 pointer@88 bytes@112 bytes@120"),
    "cucopy3d": (200, "from/4@32 source@48 to/4@120 pointer@136 bytes@176 bytes@184 bytes@192"),
    "global": (24, "grid_x@0 grid_y@8 grid_z@16"),  # size_t[work_dim]
    "local": (24, "block_x@0 block_y@8 block_z@16"),
    "region": (24, "bytes@0 bytes@8 bytes@16"),
    "first": (8, "pointer@0"),  # the first of an array of pointers
}

RUNTIME = """
launch  cudaLaunchKernel              pointer grid:dim3 block:dim3 - - stream
launch  __cudaLaunchKernel            pointer grid:dim3 block:dim3 - - stream
launch  cudaLaunchKernelExC           &launch pointer -
launch  cudaLaunchCooperativeKernel   pointer grid:dim3 block:dim3 - - stream
launch  cudaGraphLaunch               pointer stream
other   cudaLaunchHostFunc            stream pointer -
name    __cudaRegisterFunction        - pointer - text
copy    cudaMemcpy                    pointer source bytes direction/4
copy    cudaMemcpyAsync               pointer source bytes direction/4 stream
copy    cudaMemcpy2D                  pointer - source - bytes bytes direction/4
copy    cudaMemcpy2DAsync             pointer - source - bytes bytes direction/4 stream
copy    cudaMemcpy2DToArray           pointer - - source - bytes bytes direction/4
copy    cudaMemcpy2DToArrayAsync      pointer - - source - bytes bytes direction/4 stream
copy    cudaMemcpy2DFromArray         pointer - source - - bytes bytes direction/4
copy    cudaMemcpy2DFromArrayAsync    pointer - source - - bytes bytes direction/4 stream
copy    cudaMemcpy2DArrayToArray      pointer - - source - - bytes bytes direction/4
copy    cudaMemcpyToArray             pointer - - source bytes direction/4
copy    cudaMemcpyToArrayAsync        pointer - - source bytes direction/4 stream
copy    cudaMemcpyFromArray           pointer source - - bytes direction/4
copy    cudaMemcpyFromArrayAsync      pointer source - - bytes direction/4 stream
copy    cudaMemcpyArrayToArray        pointer - - source - - bytes direction/4
copy    cudaMemcpyToSymbol            pointer source bytes - direction/4
copy    cudaMemcpyToSymbolAsync       pointer source bytes - direction/4 stream
copy    cudaMemcpyFromSymbol          pointer source bytes - direction/4
copy    cudaMemcpyFromSymbolAsync     pointer source bytes - direction/4 stream
copy    cudaMemcpy3D                  &copy3d
copy    cudaMemcpy3DAsync             &copy3d stream
copy:device-to-device cudaMemcpy3DPeer      &copy3dpeer
copy:device-to-device cudaMemcpy3DPeerAsync &copy3dpeer stream
copy:device-to-device cudaMemcpyPeer        pointer - source - bytes
copy:device-to-device cudaMemcpyPeerAsync   pointer - source - bytes stream
copy    cudaMemcpyBatchAsync
copy    cudaMemcpy3DBatchAsync
fill    cudaMemset                    pointer - bytes
fill    cudaMemsetAsync               pointer - bytes stream
fill    cudaMemset2D                  pointer - - bytes bytes
fill    cudaMemset2DAsync             pointer - - bytes bytes stream
fill    cudaMemset3D                  =target - =extent
fill    cudaMemset3DAsync             =target - =extent stream
prefetch cudaMemPrefetchAsync         pointer bytes
alloc:device  cudaMalloc              *pointer bytes
alloc:device  cudaMallocAsync         *pointer bytes stream
alloc:device  cudaMallocFromPoolAsync *pointer bytes - stream
alloc:device  cudaMallocPitch         *pointer *bytes - bytes
alloc:device  cudaMalloc3D            &pitched! =rows
alloc:array   cudaMallocArray         *pointer
alloc:array   cudaMalloc3DArray       *pointer
alloc:array   cudaMallocMipmappedArray *pointer
alloc:managed cudaMallocManaged       *pointer bytes
alloc:host    cudaMallocHost          *pointer bytes
alloc:host    cudaHostAlloc           *pointer bytes
free    cudaFree                      pointer
free    cudaFreeAsync                 pointer stream
free    cudaFreeHost                  pointer
free    cudaFreeArray                 pointer
free    cudaFreeMipmappedArray        pointer
other   cudaHostRegister              pointer bytes
other   cudaHostUnregister            pointer
sync    cudaDeviceSynchronize
sync    cudaThreadSynchronize
sync    cudaStreamSynchronize         stream
sync    cudaEventSynchronize          pointer
other   cudaStreamWaitEvent           stream pointer
other   cudaEventRecord               pointer stream
other   cudaEventRecordWithFlags      pointer stream
other   cudaDeviceReset
"""

# Names without _v2 that have one are the 32-bit functions of CUDA 3.1 and before.
DRIVER = """
launch  cuLaunchKernel                pointer grid_x/4 grid_y/4 grid_z/4 block_x/4 block_y/4 block_z/4 - stream
launch  cuLaunchKernelEx              &launch pointer
launch  cuLaunchCooperativeKernel     pointer grid_x/4 grid_y/4 grid_z/4 block_x/4 block_y/4 block_z/4 - stream
launch  cuLaunchCooperativeKernelMultiDevice - - -
launch  cuLaunch                      pointer
launch  cuLaunchGrid                  pointer grid_x/4 grid_y/4
launch  cuLaunchGridAsync             pointer grid_x/4 grid_y/4 stream
launch  cuGraphLaunch                 pointer stream
other   cuLaunchHostFunc              stream pointer
name    cuModuleGetFunction           *pointer - text
name    cuLibraryGetKernel            *pointer - text
copy    cuMemcpy                      pointer source bytes
copy    cuMemcpyAsync                 pointer source bytes stream
copy:host-to-device   cuMemcpyHtoD_v2      pointer source bytes
copy:host-to-device   cuMemcpyHtoDAsync_v2 pointer source bytes stream
copy:device-to-host   cuMemcpyDtoH_v2      pointer source bytes
copy:device-to-host   cuMemcpyDtoHAsync_v2 pointer source bytes stream
copy:device-to-device cuMemcpyDtoD_v2      pointer source bytes
copy:device-to-device cuMemcpyDtoDAsync_v2 pointer source bytes stream
copy:device-to-device cuMemcpyDtoA_v2      pointer - source bytes
copy:device-to-device cuMemcpyAtoD_v2      pointer source - bytes
copy:device-to-device cuMemcpyAtoA_v2      pointer - source - bytes
copy:host-to-device   cuMemcpyHtoA_v2      pointer - source bytes
copy:host-to-device   cuMemcpyHtoAAsync_v2 pointer - source bytes stream
copy:device-to-host   cuMemcpyAtoH_v2      pointer source - bytes
copy:device-to-host   cuMemcpyAtoHAsync_v2 pointer source - bytes stream
copy:device-to-device cuMemcpyPeer         pointer - source - bytes
copy:device-to-device cuMemcpyPeerAsync    pointer - source - bytes stream
copy    cuMemcpy2D_v2                 &cucopy2d
copy    cuMemcpy2DUnaligned_v2        &cucopy2d
copy    cuMemcpy2DAsync_v2            &cucopy2d stream
copy    cuMemcpy3D_v2                 &cucopy3d
copy    cuMemcpy3DAsync_v2            &cucopy3d stream
copy:device-to-device cuMemcpy3DPeer       &cucopy3d
copy:device-to-device cuMemcpy3DPeerAsync  &cucopy3d stream
copy    cuMemcpyBatchAsync            - - - - - - - - stream
copy    cuMemcpyBatchAsync_v2         - - - - - - - stream
copy    cuMemcpy3DBatchAsync          - - - - stream
copy    cuMemcpy3DBatchAsync_v2       - - - stream
copy:host-to-device   cuMemcpyHtoD         pointer/4 source bytes/4
copy:host-to-device   cuMemcpyHtoDAsync    pointer/4 source bytes/4 stream
copy:device-to-host   cuMemcpyDtoH         pointer source/4 bytes/4
copy:device-to-host   cuMemcpyDtoHAsync    pointer source/4 bytes/4 stream
copy:device-to-device cuMemcpyDtoD         pointer/4 source/4 bytes/4
copy:device-to-device cuMemcpyDtoDAsync    pointer/4 source/4 bytes/4 stream
fill:1  cuMemsetD8_v2                 pointer - bytes
fill:1  cuMemsetD8Async               pointer - bytes stream
fill:2  cuMemsetD16_v2                pointer - bytes
fill:2  cuMemsetD16Async              pointer - bytes stream
fill:4  cuMemsetD32_v2                pointer - bytes
fill:4  cuMemsetD32Async              pointer - bytes stream
fill:1  cuMemsetD2D8_v2               pointer - - bytes bytes
fill:1  cuMemsetD2D8Async             pointer - - bytes bytes stream
fill:2  cuMemsetD2D16_v2              pointer - - bytes bytes
fill:2  cuMemsetD2D16Async            pointer - - bytes bytes stream
fill:4  cuMemsetD2D32_v2              pointer - - bytes bytes
fill:4  cuMemsetD2D32Async            pointer - - bytes bytes stream
fill:1  cuMemsetD8                    pointer/4 - bytes/4
fill:2  cuMemsetD16                   pointer/4 - bytes/4
fill:4  cuMemsetD32                   pointer/4 - bytes/4
prefetch cuMemPrefetchAsync           pointer bytes - stream
prefetch cuMemPrefetchAsync_v2        pointer bytes
alloc:device  cuMemAlloc_v2           *pointer bytes
alloc:device  cuMemAllocAsync         *pointer bytes stream
alloc:device  cuMemAllocFromPoolAsync *pointer bytes - stream
alloc:device  cuMemAllocPitch_v2      *pointer *bytes - bytes
alloc:device  cuMemAlloc              *pointer/4 bytes/4
alloc:device  cuMemAllocPitch         *pointer/4 *bytes/4 - bytes/4
alloc:device  cuMemCreate             *pointer bytes
alloc:array   cuArrayCreate_v2        *pointer
alloc:array   cuArray3DCreate_v2      *pointer
alloc:managed cuMemAllocManaged       *pointer bytes
alloc:host    cuMemAllocHost_v2       *pointer bytes
alloc:host    cuMemAllocHost          *pointer bytes/4
alloc:host    cuMemHostAlloc          *pointer bytes
free    cuMemFree_v2                  pointer
free    cuMemFree                     pointer/4
free    cuMemFreeAsync                pointer stream
free    cuMemFreeHost                 pointer
free    cuMemRelease                  pointer
free    cuArrayDestroy                pointer
other   cuMemHostRegister_v2          pointer bytes
other   cuMemHostRegister             pointer bytes
other   cuMemHostUnregister           pointer
sync    cuCtxSynchronize
sync    cuCtxSynchronize_v2           pointer
sync    cuStreamSynchronize           stream
sync    cuEventSynchronize            pointer
other   cuStreamWaitEvent             stream pointer
other   cuEventRecord                 pointer stream
other   cuEventRecordWithFlags        pointer stream
"""

OPENCL = """
launch  clEnqueueNDRangeKernel        stream pointer dimensions/4 - &global &local
launch  clEnqueueTask                 stream pointer
name    clCreateKernel                - text *code/4 -> handle
copy:device-to-host   clEnqueueReadBuffer      stream pointer - - bytes
copy:host-to-device   clEnqueueWriteBuffer     stream pointer - - bytes
copy:device-to-device clEnqueueCopyBuffer      stream source pointer - - bytes
copy:device-to-host   clEnqueueReadBufferRect  stream pointer - - - &region
copy:host-to-device   clEnqueueWriteBufferRect stream pointer - - - &region
copy:device-to-device clEnqueueCopyBufferRect  stream source pointer - - &region
copy:device-to-host   clEnqueueReadImage       stream pointer
copy:host-to-device   clEnqueueWriteImage      stream pointer
copy:device-to-device clEnqueueCopyImage       stream source pointer
copy:device-to-device clEnqueueCopyImageToBuffer stream source pointer
copy:device-to-device clEnqueueCopyBufferToImage stream source pointer
copy:map   clEnqueueMapBuffer         stream pointer - - - bytes - - - *code/4 -> address
copy:map   clEnqueueMapImage          stream pointer - - - - - - - - - *code/4 -> address
copy:unmap clEnqueueUnmapMemObject    stream pointer
fill    clEnqueueFillBuffer           stream pointer - - - bytes
fill    clEnqueueFillImage            stream pointer
prefetch clEnqueueMigrateMemObjects   stream - &first
copy    clEnqueueSVMMemcpy            stream - pointer source bytes
fill    clEnqueueSVMMemFill           stream pointer - - bytes
copy:map   clEnqueueSVMMap            stream - - pointer bytes
copy:unmap clEnqueueSVMUnmap          stream pointer
prefetch clEnqueueSVMMigrateMem       stream - &first
alloc:device clCreateBuffer           - - bytes - *code/4 -> handle
alloc:device clCreateBufferWithProperties - - - bytes - *code/4 -> handle
alloc:image  clCreateImage            - - - - - *code/4 -> handle
alloc:image  clCreateImageWithProperties - - - - - - *code/4 -> handle
alloc:image  clCreateImage2D          - - - - - - - *code/4 -> handle
alloc:image  clCreateImage3D          - - - - - - - - - *code/4 -> handle
alloc:shared clSVMAlloc               - - bytes -> handle
other   clCreateSubBuffer             - - - - *code/4 -> handle
retain  clRetainMemObject             pointer
free    clReleaseMemObject            pointer
free    clSVMFree                     - pointer -> void
free    clEnqueueSVMFree              stream - &first
sync    clFinish                      stream
sync    clWaitForEvents
other   clFlush                       stream
other   clEnqueueBarrierWithWaitList  stream
other   clEnqueueMarkerWithWaitList   stream
other   clEnqueueWaitForEvents        stream
"""
