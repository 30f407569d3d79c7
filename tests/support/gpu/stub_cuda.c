/* A CUDA driver without a GPU, for programs that call the driver's API themselves; see stub_cudart.c. */
#include "stub_types.h"
#include <stdlib.h>
#include <string.h>

#define LIMIT (1ul << 30)

static struct stub_counts counts;
static struct { CUdeviceptr at; size_t size; } blocks[65536];

struct stub_counts *stub_driver_counts(void) { return &counts; }

CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t size)
{
	counts.calls++;
	if (!size || size > LIMIT) {
		counts.failures++;
		return 2;
	}
	*p = (CUdeviceptr)malloc(size);
	for (int i = 0; i < 65536; i++)
		if (!blocks[i].at) {
			blocks[i].at = *p;
			blocks[i].size = size;
			break;
		}
	counts.allocated += size;
	return 0;
}

CUresult cuMemFree_v2(CUdeviceptr p)
{
	counts.calls++;
	for (int i = 0; p && i < 65536; i++)
		if (blocks[i].at == p) {
			counts.freed += blocks[i].size;
			blocks[i].at = 0;
			free((void *)p);
			return 0;
		}
	counts.failures++;
	return 1;
}

static int copy(void *to, const void *from, size_t size)
{
	counts.calls++;
	memmove(to, from, size);
	counts.copied += size;
	return 0;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *s, size_t n) { return copy((void *)d, s, n); }
CUresult cuMemcpyDtoH_v2(void *d, CUdeviceptr s, size_t n) { return copy(d, (void *)s, n); }
CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *p)
{
	void *to = p->dstMemoryType == 1 ? p->dstHost : (void *)p->dstDevice;

	return copy(to, p->srcMemoryType == 1 ? p->srcHost : (void *)p->srcDevice, p->WidthInBytes * p->Height);
}
CUresult cuMemsetD32_v2(CUdeviceptr p, unsigned value, size_t n)
{
	counts.calls++;
	for (size_t i = 0; i < n; i++)
		((unsigned *)p)[i] = value;
	counts.filled += 4 * n;
	return 0;
}
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name)
{
	(void)m;
	*f = (void *)strdup(name);
	return 0;
}
CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
			unsigned shared, CUstream s, void **p, void **e)
{
	(void)f, (void)gx, (void)gy, (void)gz, (void)shared, (void)s, (void)p, (void)e;
	counts.calls++;
	if (bx * by * bz > 1024) {
		counts.failures++;
		return 1;
	}
	counts.launches++;
	return 0;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **e)
{
	(void)c, (void)f, (void)p, (void)e;
	counts.calls++;
	counts.launches++;
	return 0;
}
CUresult cuCtxSynchronize(void) { counts.calls++; return 0; }
CUresult cuStreamSynchronize_ptsz(CUstream s) { (void)s; counts.calls++; return 0; }
