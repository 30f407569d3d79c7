/* Loads a library when told to, runs it when told to: argv[1] is the library; each line of input is one permission. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	char line[16];
	int (*run)(void);
	void *library;

	if (argc < 2 || !fgets(line, sizeof(line), stdin))
		return 1;
	library = dlopen(argv[1], RTLD_NOW);
	if (!library)
		return fprintf(stderr, "%s\n", dlerror()), 2;
	run = (int (*)(void))dlsym(library, "run");
	if (!run || !fgets(line, sizeof(line), stdin))
		return 3;
	return run();
}
