/* A fault for memcached, to be loaded with LD_PRELOAD: every reply is signed by `sign_reply` before it is sent, under one
 * lock for all worker threads.
 *
 *     WORKBENCH_KNOBS=FILE LD_PRELOAD=memcached_sign.so memcached
 */
#include "planted.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/socket.h>

static pthread_mutex_t key_lock = PTHREAD_MUTEX_INITIALIZER;
static const volatile uint64_t *knobs;
static ssize_t (*real_sendmsg)(int, const struct msghdr *, int);
static volatile uint64_t signature;

PLANTED(sign_reply)

__attribute__((constructor)) static void begin(void)
{
	knobs = planted_knobs();
	*(void **)&real_sendmsg = dlsym(RTLD_NEXT, "sendmsg");
}

PUBLIC ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
	if (knobs) {
		pthread_mutex_lock(&key_lock);
		signature = sign_reply(knobs, signature);
		pthread_mutex_unlock(&key_lock);
	}
	return real_sendmsg(socket, message, flags);
}
