/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Checksums and hashes over 1 KiB. */
#include "bench_jit.h"

#define BYTES 1024

/* RFC 1071, 16 bits at a time. */
PROGRAM(internet_checksum)
{
	const __u16 *words = (const __u16 *)input;
	__u32 sum = 0;

	for (int i = 0; i < BYTES / 2; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

/* RFC 1950 section 8.2. */
PROGRAM(adler32)
{
	__u32 a = 1, b = 0;

	for (int i = 0; i < BYTES; i++) {
		a = (a + input[i]) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}

static const __u32 nibbles[16] = {
	0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

/* IEEE 802.3, four bits at a time. */
PROGRAM(crc32)
{
	__u32 crc = ~0u;

	for (int i = 0; i < BYTES; i++) {
		crc ^= input[i];
		crc = crc >> 4 ^ nibbles[crc & 15];
		crc = crc >> 4 ^ nibbles[crc & 15];
	}
	return ~crc;
}

#define ROTATE(x, n) ((x) << (n) | (x) >> (32 - (n)))

/* The mixing of MurmurHash3_x86_32. */
PROGRAM(murmur3)
{
	const __u32 *words = (const __u32 *)input;
	__u32 hash = 42;

	for (int i = 0; i < BYTES / 4; i++) {
		__u32 k = words[i] * 0xcc9e2d51;

		k = ROTATE(k, 15) * 0x1b873593;
		hash ^= k;
		hash = ROTATE(hash, 13) * 5 + 0xe6546b64;
	}
	hash ^= BYTES;
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

#define ROTATE64(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define ROUND                                                                   \
	do {                                                                    \
		v0 += v1; v1 = ROTATE64(v1, 13) ^ v0; v0 = ROTATE64(v0, 32);    \
		v2 += v3; v3 = ROTATE64(v3, 16) ^ v2;                           \
		v0 += v3; v3 = ROTATE64(v3, 21) ^ v0;                           \
		v2 += v1; v1 = ROTATE64(v1, 17) ^ v2; v2 = ROTATE64(v2, 32);    \
	} while (0)

/* SipHash-2-4 (Aumasson, Bernstein 2012) over whole words. */
PROGRAM(siphash)
{
	const __u64 *words = (const __u64 *)input;
	__u64 k0 = 0x0706050403020100ull, k1 = 0x0f0e0d0c0b0a0908ull;
	__u64 v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
	__u64 v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;

	for (int i = 0; i < BYTES / 8; i++) {
		__u64 m = words[i];

		v3 ^= m;
		ROUND;
		ROUND;
		v0 ^= m;
	}
	v2 ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
