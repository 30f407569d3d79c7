/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Text: the input is words of letters with blanks between them and ends in a zero byte. */
#include "bench_jit.h"

#define BYTES 1024

/* Length up to the zero byte. */
PROGRAM(string_length)
{
	int i;

	for (i = 0; i < BYTES; i++)
		if (!input[i])
			break;
	return i;
}

/* Words, and the longest of them. */
PROGRAM(count_words)
{
	__u32 words = 0, length = 0, longest = 0;

	for (int i = 0; i < BYTES; i++) {
		__u8 c = input[i];

		if (!c)
			break;
		if (c == ' ') {
			words += length > 0;
			if (length > longest)
				longest = length;
			length = 0;
		} else {
			length++;
		}
	}
	return words << 16 | longest;
}

/* Occurrences of a four-letter text. */
PROGRAM(find_text)
{
	static const char text[] = "edge";
	__u32 found = 0;

	for (int i = 0; i + 4 <= BYTES; i++) {
		if (input[i] != text[0])
			continue;
		found += input[i + 1] == text[1] && input[i + 2] == text[2] && input[i + 3] == text[3];
	}
	return found;
}

/* Lower case to upper case, copied. */
PROGRAM(upper_case)
{
	for (int i = 0; i < BYTES; i++) {
		__u8 c = input[i];

		output[i] = c >= 'a' && c <= 'z' ? c - 32 : c;
	}
	return output[17];
}

/* 256 bytes as hexadecimal digits. */
PROGRAM(to_hexadecimal)
{
	static const char digits[16] = "0123456789abcdef";
	__u32 sum = 0;

	for (int i = 0; i < 256; i++) {
		output[2 * i] = digits[input[i] >> 4];
		output[2 * i + 1] = digits[input[i] & 15];
		sum += output[2 * i + 1];
	}
	return sum;
}

/* Copies 512 bytes, a word at a time. */
PROGRAM(copy_words)
{
	const __u64 *from = (const __u64 *)input;
	__u64 *to = (__u64 *)output;

	for (int i = 0; i < 64; i++)
		to[i] = from[i];
	return to[63];
}
