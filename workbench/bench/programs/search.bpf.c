/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Searching, sieving and packets. */
#include "bench_jit.h"

static __u32 sorted[1024];
static __u8 composite[1024];

/* Binary search in 1,024 sorted numbers, 32 times. */
PROGRAM(binary_search)
{
	__u32 found = 0;

	if (!sorted[1023])
		for (int i = 0; i < 1024; i++)
			sorted[i] = 3 * i + 1;
	for (int i = 0; i < 32; i++) {
		__u32 wanted = (input[i] << 4 | input[i + 32]) % 3072, low = 0, high = 1024;

		for (int k = 0; k < 10; k++) {
			__u32 middle = (low + high) / 2;

			if (sorted[middle & 1023] <= wanted)
				low = middle;
			else
				high = middle;
		}
		found += low;
	}
	return found;
}

/* The sieve of Eratosthenes up to 1,024. */
PROGRAM(sieve)
{
	__u32 primes = 0;

	for (int i = 0; i < 1024; i++)
		composite[i] = 0;
	for (__u32 i = 2; i < 32; i++) {
		if (composite[i])
			continue;
		for (__u32 k = i * i; k < 1024; k += i)
			composite[k & 1023] = 1;
	}
	for (int i = 2; i < 1024; i++)
		primes += !composite[i];
	return primes;
}

/* 16 x 16 matrices of small numbers. */
PROGRAM(matrix_product)
{
	const __u8 *a = input, *b = input + 256;
	__u32 *c = (__u32 *)output;
	__u32 trace = 0;

	for (int i = 0; i < 16; i++)
		for (int k = 0; k < 16; k++) {
			__u32 sum = 0;

			for (int j = 0; j < 16; j++)
				sum += a[i * 16 + j] * b[j * 16 + k];
			c[i * 16 + k] = sum;
		}
	for (int i = 0; i < 16; i++)
		trace += c[i * 17];
	return trace;
}

struct ethernet {
	__u8 to[6], from[6];
	__u16 type;
};

struct ip4 {
	__u8 version, service;
	__u16 length, id, fragment;
	__u8 lifetime, protocol;
	__u16 checksum;
	__u32 source, target;
} __attribute__((packed));

struct ports {
	__u16 source, target;
};

static __always_inline __u16 swap16(__u16 x)
{
	return __builtin_bswap16(x);
}

/* One packet: Ethernet, IPv4 with options, TCP or UDP ports; the flow's hash. */
static __always_inline __u32 parse(const __u8 *data, const __u8 *end)
{
	const struct ethernet *eth = (const void *)data;
	const struct ip4 *ip;
	const struct ports *l4;
	__u32 header;

	if (data + sizeof(*eth) > end || eth->type != swap16(0x0800))
		return 0;
	ip = (const void *)(data + sizeof(*eth));
	if ((const __u8 *)ip + sizeof(*ip) > end || ip->version >> 4 != 4)
		return 1;
	header = (ip->version & 15) * 4;
	if (header < sizeof(*ip) || ip->fragment & swap16(0x1fff))
		return 2;
	if (ip->protocol != 6 && ip->protocol != 17)
		return 3;
	l4 = (const void *)((const __u8 *)ip + header);
	if ((const __u8 *)l4 + sizeof(*l4) > end)
		return 4;
	return (ip->source * 0x9e3779b1u ^ ip->target) * 31 + (l4->source ^ l4->target << 16) + ip->protocol;
}

/* 32 packets of 64 bytes, one after the other, a quarter of each kind. */
PROGRAM(parse_packets)
{
	const __u8 *packets = input + 2048;
	__u32 sum = 0;

	for (int i = 0; i < 32; i++)
		sum += parse(packets + i * 64, packets + i * 64 + 64);
	return sum;
}
