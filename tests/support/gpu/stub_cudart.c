/* A CUDA runtime without a GPU: device memory is host memory, a launch adds a fixed time to a queue, and a
 * synchronisation spins that time off. It counts what it does. With ON_DRIVER it allocates and launches through the
 * driver stub, as the real runtime does.
 */
#include "stub_types.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAUNCH_NS 2000
#define LIMIT (1ul << 30) /* larger allocations fail */
#define MOST 65536

static struct stub_counts counts;
static struct { void *at; size_t size; } blocks[MOST];
static long queued;

struct stub_counts *stub_counts(void) { return &counts; }

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int spin(void)
{
	long start = now(), end = start + queued, t;

	while ((t = now()) < end)
		;
	counts.spun += t - start;
	queued = 0;
	return 0;
}

static int allocate(void **out, size_t size)
{
	counts.calls++;
	if (!size || size > LIMIT) {
		counts.failures++;
		return 2;
	}
#ifdef ON_DRIVER
	CUdeviceptr p = 0;
	if (cuMemAlloc_v2(&p, size))
		return 2;
	*out = (void *)p;
#else
	*out = malloc(size);
#endif
	for (int i = 0; i < MOST; i++)
		if (!blocks[i].at) {
			blocks[i].at = *out;
			blocks[i].size = size;
			break;
		}
	counts.allocated += size;
	return 0;
}

static int release(void *p)
{
	counts.calls++;
	if (!p)
		return 0;
	for (int i = 0; i < MOST; i++)
		if (blocks[i].at == p) {
			counts.freed += blocks[i].size;
			blocks[i].at = 0;
#ifdef ON_DRIVER
			cuMemFree_v2((CUdeviceptr)p);
#else
			free(p);
#endif
			return 0;
		}
	counts.failures++;
	return 1;
}

static int copy(void *to, const void *from, size_t size)
{
	counts.calls++;
	if (!to || !from) {
		counts.failures++;
		return 1;
	}
	memmove(to, from, size);
	counts.copied += size;
	return 0;
}

static int launch(dim3 grid, dim3 block)
{
	counts.calls++;
	if (block.x * block.y * block.z > 1024) {
		counts.failures++;
		return 9;
	}
#ifdef ON_DRIVER
	cuLaunchKernel(0, grid.x, grid.y, grid.z, block.x, block.y, block.z, 0, 0, 0, 0);
#else
	(void)grid;
#endif
	counts.launches++;
	queued += LAUNCH_NS;
	return 0;
}

cudaError_t cudaMalloc(void **p, size_t size) { return allocate(p, size); }
cudaError_t cudaMallocAsync(void **p, size_t size, cudaStream_t s) { (void)s; return allocate(p, size); }
cudaError_t cudaMallocHost(void **p, size_t size) { return allocate(p, size); }
cudaError_t cudaMallocPitch(void **p, size_t *pitch, size_t width, size_t height)
{
	*pitch = (width + 511) / 512 * 512;
	return allocate(p, *pitch * height);
}
cudaError_t cudaMalloc3D(cudaPitchedPtr *p, cudaExtent e)
{
	p->pitch = (e.width + 511) / 512 * 512;
	p->xsize = e.width;
	p->ysize = e.height;
	return allocate(&p->ptr, p->pitch * e.height * e.depth);
}
cudaError_t cudaFree(void *p) { return release(p); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { (void)s; return release(p); }
cudaError_t cudaFreeHost(void *p) { return release(p); }
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, int kind) { (void)kind; return copy(d, s, n); }
cudaError_t cudaMemcpy_ptds(void *d, const void *s, size_t n, int kind) { (void)kind; return copy(d, s, n) + 0 * kind; }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, int kind, cudaStream_t t)
{
	(void)kind, (void)t;
	return copy(d, s, n);
}
cudaError_t cudaMemcpyAsync_ptsz(void *d, const void *s, size_t n, int kind, cudaStream_t t)
{
	(void)kind;
	return copy(d, s, n) + 0 * (t != 0);
}
cudaError_t cudaMemcpy2D(void *d, size_t dp, const void *s, size_t sp, size_t width, size_t height, int kind)
{
	(void)dp, (void)sp, (void)kind;
	return copy(d, s, width * height);
}
cudaError_t cudaMemcpy3D(const cudaMemcpy3DParms *p)
{
	return copy(p->dstPtr.ptr, p->srcPtr.ptr, p->extent.width * p->extent.height * p->extent.depth);
}
static int fill(void *p, int value, size_t n)
{
	counts.calls++;
	if (!p) {
		counts.failures++;
		return 1;
	}
	memset(p, value, n);
	counts.filled += n;
	return 0;
}
cudaError_t cudaMemset(void *p, int value, size_t n) { return fill(p, value, n); }
cudaError_t cudaMemset3D(cudaPitchedPtr p, int value, cudaExtent e)
{
	return fill(p.ptr, value, e.width * e.height * e.depth);
}
cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s)
{
	(void)f, (void)args, (void)shared, (void)s;
	return launch(grid, block);
}
cudaError_t cudaLaunchKernel_ptsz(const void *f, dim3 grid, dim3 block, void **args, size_t shared, cudaStream_t s)
{
	(void)f, (void)args, (void)shared;
	return launch(grid, block) + 0 * (s != 0);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **args)
{
	(void)f, (void)args;
	return launch(c->gridDim, c->blockDim);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s)
{
	(void)g, (void)s;
	counts.calls++;
	counts.launches++;
	queued += LAUNCH_NS;
	return 0;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) { (void)s; counts.calls++; return spin(); }
cudaError_t cudaStreamSynchronize_ptsz(cudaStream_t s) { counts.calls++; return spin() + 0 * (s != 0); }
cudaError_t cudaDeviceSynchronize(void) { counts.calls++; return spin(); }
void __cudaRegisterFunction(void **h, const char *host, char *device, const char *name, int limit, void *a, void *b,
			    void *c, void *d, int *e)
{
	static volatile int last __attribute__((unused)); /* no shorter than a jump */

	(void)h, (void)host, (void)device, (void)name, (void)a, (void)b, (void)c, (void)d, (void)e;
	last = limit;
}
