/* Work in a library, for programs whose own code should stand for it. */
#include <stdint.h>

__attribute__((noinline)) uint64_t turn(uint64_t turns)
{
	uint64_t value = turns | 1;

	for (uint64_t i = 0; i < turns; i++)
		__asm__ volatile(".rept 50\n\timulq %0, %0\n\taddq $7, %0\n\t.endr" : "+r"(value));
	return value;
}
