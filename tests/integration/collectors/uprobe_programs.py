"""C programs whose calls are known."""

from __future__ import annotations

CALLS = """
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <pthread.h>
enum color { RED, GREEN = 7 };
static jmp_buf back;
#define NI __attribute__((noinline))
NI long ten(char c, unsigned short u, enum color e, bool b, const char *text, void *p, int seven,
            long long eight, signed char nine, unsigned ten) {
  return c + u + e + b + (long)strlen(text) + (p != 0) + seven + eight + nine + ten;
}
NI int negative(int x) { __asm__ volatile(""); return -x; }
NI long factorial(int n) { return n < 2 ? 1 : n * factorial(n - 1); }
NI void jumper(int x) { if (x % 2) longjmp(back, 1); }
NI int worker(int thread) { __asm__ volatile(""); return thread * 2; }
static void *run(void *arg) {
  long t = (long)arg, s = 0;
  for (int i = 0; i < 250; i++) s += worker(t); return (void *)s; }
int main(void) {
  long total = 0;
  for (int i = 0; i < 100; i++)
    total += ten(-1, 65535, GREEN, true, "hello", &total, -7, -8000000000LL, -9, 4000000000u);
  for (int i = 1; i <= 20; i++) total += negative(i);
  total += factorial(10);
  for (volatile int i = 0; i < 10; i++) if (!setjmp(back)) jumper(i);
  pthread_t t[4];
  for (long i = 0; i < 4; i++) pthread_create(&t[i], 0, run, (void *)i);
  for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
  printf("%ld\\n", total);
  return 0;
}
"""

FORK_C = """
#include <unistd.h>
#include <sys/wait.h>
#include <stdio.h>
__attribute__((noinline)) int work(int x) { __asm__ volatile(""); return x; }
int main(int argc, char **argv) {
  for (int i = 0; i < 10; i++) work(i);
  int go[2]; pipe(go);
  pid_t child = fork();
  if (!child) { char c; if (argc > 1) read(go[0], &c, 1); for (int i = 0; i < 30; i++) work(i); _exit(0); }
  printf("%d\\n", child); fflush(stdout);
  if (argc > 1) { char c; read(0, &c, 1); write(go[1], "x", 1); }
  waitpid(child, 0, 0);
  return 0;
}
"""

WAITING = """
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int tick(int x) { __asm__ volatile(""); return x; }
int main(void) { char c; printf("%p\\n", (void *)tick); fflush(stdout);
  while (read(0, &c, 1) == 1) { for (int i = 0; i < 100; i++) tick(i); printf("done\\n"); fflush(stdout); } return 0; }
"""
