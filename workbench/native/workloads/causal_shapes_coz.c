/* causal_shapes, with `progress` declared to Coz as well when that is preloaded.
 *
 * The counter is looked up as Coz's header does it (coz.h: _coz_get_counter, kind 1 is throughput). For that the program
 * is linked dynamically, with debug information that Coz 0.2 reads; see PROGRAMS in workbench/native/build.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

enum { THROUGHPUT = 1 };

static void pass_of_coz(void)
{
	static size_t *counter;
	static int known;

	if (!__atomic_load_n(&known, __ATOMIC_ACQUIRE)) {
		size_t *(*get)(int, const char *);
		void *found = dlsym(RTLD_DEFAULT, "_coz_get_counter");

		memcpy(&get, &found, sizeof(get));
		counter = get ? get(THROUGHPUT, "progress") : NULL;
		__atomic_store_n(&known, 1, __ATOMIC_RELEASE);
	}
	if (counter)
		__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

#define ALSO_PASSED pass_of_coz
#include "causal_shapes.c"
