/* What a program does with the CUDA driver's API itself. */
#include "stub_types.h"
#include <stdio.h>
#include <stdlib.h>

static void must(int got) { if (got) abort(); }

int main(void)
{
	CUdeviceptr a, b, none = 1;
	CUfunction f;
	CUstream stream = (CUstream)0x77;
	CUlaunchConfig config = { 3, 4, 5, 6, 7, 8, 99, stream, 0, 0 };
	char *host = calloc(1, 1 << 16);
	CUDA_MEMCPY2D rectangle = { .srcMemoryType = 2, .dstMemoryType = 1, .dstHost = host, .WidthInBytes = 50, .Height = 6 };

	must(cuModuleGetFunction(&f, 0, "matmul"));
	must(cuMemAlloc_v2(&a, 1 << 16));
	must(cuMemAlloc_v2(&b, 5000));
	if (cuMemAlloc_v2(&none, 0) == 0)
		abort();
	rectangle.srcDevice = a;
	must(cuMemcpyHtoD_v2(a, host, 60000));
	must(cuMemcpyDtoH_v2(host, a, 20000));
	must(cuMemcpy2D_v2(&rectangle));
	must(cuMemsetD32_v2(a, 1, 1000));
	for (int i = 0; i < 1000; i++)
		must(cuLaunchKernel(f, 11, 12, 13, 14, 5, 6, 0, stream, 0, 0));
	must(cuLaunchKernelEx(&config, f, 0, 0));
	must(cuCtxSynchronize());
	must(cuStreamSynchronize_ptsz(stream));
	must(cuMemFree_v2(a));
	if (cuMemFree_v2(a) == 0)
		abort();
	struct stub_counts *c = stub_driver_counts();
	printf("{\"calls\": %ld, \"launches\": %ld, \"allocated\": %ld, \"freed\": %ld, \"copied\": %ld, \"filled\": %ld, "
	       "\"failures\": %ld, \"leak\": %llu}\n",
	       c->calls, c->launches, c->allocated, c->freed, c->copied, c->filled, c->failures, b);
	return 0;
}
