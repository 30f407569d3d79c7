/* What a program does with the CUDA runtime, call by call: the test knows every number. Prints what the stub counted. */
#include "stub_types.h"
#include <stdio.h>
#include <stdlib.h>

#define LAUNCHES 4000

void scale(float *data, int n) { (void)data, (void)n; } /* its address is the kernel's handle */
void unnamed(float *data, int n) { (void)data, (void)n; }

static void refuse(int got) { if (!got) abort(); }
static void must(int got) { if (got) abort(); }

int run(void)
{
	cudaStream_t stream = (cudaStream_t)0x5150;
	char *host = calloc(1, 1 << 20);
	void *a, *b, *pinned, *leak, *wrong = host;
	cudaPitchedPtr box = {0};
	size_t pitch;
	cudaLaunchConfig_t config = { { 7, 8, 9 }, { 10, 11, 2 }, 64, stream, 0, 0 };
	cudaMemcpy3DParms parameters = { .extent = { 100, 20, 3 }, .kind = 1 };

	__cudaRegisterFunction(0, (const char *)scale, (char *)scale, "_Z5scalePfi", -1, 0, 0, 0, 0, 0);

	/* Allocations; a failed one is tried again, smaller. */
	must(cudaMalloc(&a, 1 << 20));
	refuse(cudaMalloc(&b, 1ul << 40));
	must(cudaMallocAsync(&b, 4096, stream));
	must(cudaMallocHost(&pinned, 1000));
	must(cudaMallocPitch(&leak, &pitch, 100, 30)); /* 512 x 30, never freed */
	must(cudaMalloc3D(&box, (cudaExtent){ 100, 20, 3 })); /* 512 x 20 x 3 */

	/* Copies: all directions, 1, 2 and 3 dimensions, default stream per thread; the last fails. */
	must(cudaMemcpy(a, host, 1 << 20, 1));
	must(cudaMemcpy_ptds(host, a, 3000, 2));
	must(cudaMemcpyAsync(b, a, 500, 3, stream));
	must(cudaMemcpyAsync_ptsz(a, host, 77, 4, stream));
	must(cudaMemcpy2D(a, 200, host, 100, 100, 20, 1));
	parameters.dstPtr.ptr = box.ptr;
	parameters.srcPtr.ptr = host;
	must(cudaMemcpy3D(&parameters));
	refuse(cudaMemcpy(0, host, 5000, 1));
	must(cudaMemset(a, 0, 12345));
	must(cudaMemset3D(box, 0, (cudaExtent){ 100, 20, 3 }));

	/* Launches; the last has too many threads. */
	for (int i = 0; i < LAUNCHES; i++)
		must(cudaLaunchKernel((void *)scale, (dim3){ i + 1, 2, 3 }, (dim3){ 32, 4, 5 }, 0, 128, stream));
	must(cudaStreamSynchronize(stream));
	for (int i = 0; i < LAUNCHES; i++)
		must(cudaLaunchKernel_ptsz((void *)unnamed, (dim3){ 65535, 65534, 65533 }, (dim3){ 1, 1, 1 }, 0, 0, 0));
	must(cudaStreamSynchronize_ptsz(0));
	must(cudaLaunchKernelExC(&config, (void *)scale, 0));
	must(cudaGraphLaunch((cudaGraphExec_t)0x6000, stream));
	refuse(cudaLaunchKernel((void *)scale, (dim3){ 1, 1, 1 }, (dim3){ 1024, 2, 1 }, 0, 0, stream));
	must(cudaDeviceSynchronize());

	/* Frees; two fail, one of an allocation that exists under another address. */
	must(cudaFree(a));
	refuse(cudaFree(wrong));
	refuse(cudaFree((char *)b + 16));
	must(cudaFreeAsync(b, stream));
	must(cudaFreeHost(pinned));
	must(cudaFree(0));
	refuse(cudaFree(a)); /* twice */
	must(cudaFree(box.ptr));

	struct stub_counts *c = stub_counts();
	printf("{\"calls\": %ld, \"launches\": %ld, \"allocated\": %ld, \"freed\": %ld, \"copied\": %ld, \"filled\": %ld, "
	       "\"failures\": %ld, \"spun\": %ld, \"leak\": %lu, \"host\": %lu, \"a\": %lu}\n",
	       c->calls, c->launches, c->allocated, c->freed, c->copied, c->filled, c->failures, c->spun,
	       (unsigned long)leak, (unsigned long)host, (unsigned long)a);
	fflush(stdout);
	return 0;
}

#ifndef LATER
int main(void) { return run(); }
#endif
