/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Branches, switches, calls and the stack. */
#include "bench_jit.h"

/* A stack machine's instructions: one switch per byte of input. */
PROGRAM(switch_machine)
{
	__u64 a = 1, b = 2;

	for (int i = 0; i < 256; i++) {
		switch (input[i] & 15) {
		case 0: a += b; break;
		case 1: a -= b; break;
		case 2: a ^= b; break;
		case 3: a *= 3; break;
		case 4: b += i; break;
		case 5: b ^= a >> 3; break;
		case 6: a = b - a; break;
		case 7: b = a << 1; break;
		case 8: a |= 1; break;
		case 9: b &= 0xffffff; break;
		case 10: a += 17; break;
		case 11: b = ~b; break;
		case 12: a = a >> 5 | b; break;
		case 13: b += a & 255; break;
		case 14: a ^= 0x55; break;
		default: b -= 3; break;
		}
	}
	return a ^ b;
}

/* A protocol's states, as a parser has them. */
PROGRAM(state_machine)
{
	__u32 state = 0, accepted = 0;

	for (int i = 0; i < 512; i++) {
		__u8 c = input[i];

		switch (state) {
		case 0: state = c == 'e' ? 1 : c == 't' ? 2 : 0; break;
		case 1: state = c == 'd' ? 3 : c == 'e' ? 1 : 0; break;
		case 2: state = c == 'h' ? 4 : 0; break;
		case 3: accepted++; state = c == 'g' ? 1 : 0; break;
		default: accepted += 2; state = c == 'e' ? 1 : 0; break;
		}
	}
	return accepted << 8 | state;
}

static __noinline __u64 divisor(__u64 a, __u64 b)
{
	for (int k = 0; k < 16 && b; k++) {
		__u64 rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* Greatest common divisors, each by a call to a function of the program. */
PROGRAM(divisor_calls)
{
	__u64 sum = 0;

	for (int i = 1; i <= 32; i++)
		sum += divisor(input[i] + 256, input[i + 32] + 1);
	return sum;
}

static __noinline __u32 mix(__u32 a, __u32 b, __u32 c)
{
	a -= c; a ^= c << 4 | c >> 28; c += b;
	b -= a; b ^= a << 6 | a >> 26; a += c;
	c -= b; c ^= b << 8 | b >> 24; b += a;
	return a ^ b ^ c;
}

static __noinline __u32 mix_pair(const __u8 *at)
{
	return mix(at[0], at[1], at[2]) + mix(at[3], at[4], at[5]);
}

/* Calls from function to function of the program, two deep. */
PROGRAM(nested_calls)
{
	__u32 sum = 0;

	for (int i = 0; i < 128; i++)
		sum += mix_pair(&input[i * 6]);
	return sum;
}

/* A histogram on the stack. */
PROGRAM(stack_histogram)
{
	__u32 bins[32] = {};
	__u32 result = 0;

	for (int i = 0; i < 512; i++)
		bins[input[i] & 31]++;
	for (int i = 0; i < 32; i++)
		result = result * 31 + bins[i];
	return result;
}

/* Insertion sort of 24 numbers on the stack. */
PROGRAM(stack_sort)
{
	__u32 numbers[24];
	__u32 result = 0;

	for (int i = 0; i < 24; i++)
		numbers[i] = input[i] * 7919u % 251;
	for (int i = 1; i < 24; i++) {
		__u32 value = numbers[i];
		int k = i;

		for (; k > 0; k--) {
			__u32 other = numbers[(k - 1) & 31];

			if (other <= value)
				break;
			numbers[k & 31] = other;
		}
		numbers[k & 31] = value;
	}
	for (int i = 0; i < 24; i++)
		result = result * 31 + numbers[i];
	return result;
}

struct loop_state {
	__u32 sum, odd;
};

static long one_round(__u64 index, struct loop_state *state)
{
	__u8 c = input[index & (INPUT_BYTES - 1)];

	state->sum += c;
	state->odd += c & 1;
	return 0;
}

/* bpf_loop with a callback. */
PROGRAM(loop_callback)
{
	struct loop_state state = {};

	bpf_loop(512, one_round, &state, 0);
	return state.sum << 12 | state.odd;
}
