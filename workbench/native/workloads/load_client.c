/* A client that keeps a server busy: each connection sends a request, waits for its whole answer, and sends the next one.
 *
 *     load_client ADDRESS CONNECTIONS KNOBS REQUEST END [REQUEST END]...
 *
 * ADDRESS is a port of this machine, or the path of a socket. REQUEST and END take \r, \n, \\ as escapes; an answer is
 * over where its bytes end with END. KNOBS is a file of 64-bit numbers that is mapped and read before every request:
 * [1] says which of the requests is sent, [2] for how many nanoseconds the client thinks before (0: a closed loop).
 * `exchanged` is called once per answer. One thread serves all connections, by epoll. The program runs until it is
 * killed or its parent ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { UNUSED, WHICH, THINK };
enum { MOST = 256, REQUESTS = 16, TAIL = 64, READ = 65536, PATIENCE = 600 };

struct text {
	char *bytes;
	size_t size;
};
struct exchange {
	struct text request, end;
};
struct connection {
	int socket;
	unsigned which;
	size_t have;	 /* bytes of `tail` */
	char tail[TAIL]; /* the last bytes of the answer so far */
};

static const volatile uint64_t *knobs;
static struct exchange exchanges[REQUESTS];
static unsigned count;
static struct connection connections[MOST];

__attribute__((noinline)) void exchanged(void)
{
	__asm__ volatile("nop" ::: "memory"); /* a probe need not step over this one */
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct text unescape(char *from)
{
	struct text text = {from, 0};

	for (; *from; from++) {
		char c = *from;

		if (c == '\\' && from[1]) {
			c = *++from;
			c = c == 'r' ? '\r' : c == 'n' ? '\n' : c;
		}
		text.bytes[text.size++] = c;
	}
	return text;
}

static int reach(const char *address)
{
	struct sockaddr_in inet = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr_un local = {.sun_family = AF_UNIX};
	int is_path = address[0] == '/', one = 1, made;

	inet.sin_port = htons((uint16_t)atoi(address));
	strncpy(local.sun_path, address, sizeof(local.sun_path) - 1);
	for (int tries = 0; tries < PATIENCE; tries++) { /* the server may still be starting */
		made = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (made < 0)
			fail("socket");
		if (!(is_path ? connect(made, (void *)&local, sizeof(local)) : connect(made, (void *)&inet, sizeof(inet)))) {
			if (!is_path)
				setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			return made;
		}
		close(made);
		usleep(20000);
	}
	fail(address);
	return -1;
}

static void ask(struct connection *to)
{
	struct timespec pause = {0, (long)knobs[THINK]};
	uint64_t which = knobs[WHICH];
	struct text request;
	size_t sent = 0;

	if (pause.tv_nsec)
		nanosleep(&pause, NULL);
	to->which = which < count ? (unsigned)which : 0;
	to->have = 0;
	request = exchanges[to->which].request;
	while (sent < request.size) {
		ssize_t some = send(to->socket, request.bytes + sent, request.size - sent, MSG_NOSIGNAL);

		if (some <= 0)
			fail("send");
		sent += (size_t)some;
	}
}

/* The answer went on; whether it is over. */
static int take(struct connection *from, const char *bytes, size_t size)
{
	const struct text *end = &exchanges[from->which].end;
	size_t keep, drop;

	if (size >= TAIL) {
		bytes += size - TAIL;
		size = TAIL;
	}
	keep = from->have + size > TAIL ? TAIL - size : from->have;
	drop = from->have - keep;
	memmove(from->tail, from->tail + drop, keep);
	memcpy(from->tail + keep, bytes, size);
	from->have = keep + size;
	return from->have >= end->size && !memcmp(from->tail + from->have - end->size, end->bytes, end->size);
}

int main(int argc, char **argv)
{
	static char bytes[READ];
	int file = argc >= 6 && argc % 2 == 0 ? open(argv[3], O_RDONLY) : -1, poll = epoll_create1(EPOLL_CLOEXEC);
	unsigned open_connections = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

	if (file < 0 || poll < 0 || !open_connections || open_connections > MOST || argc > 4 + 2 * REQUESTS) {
		fprintf(stderr, "usage: %s ADDRESS CONNECTIONS KNOBS REQUEST END [REQUEST END]...\n", argv[0]);
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	knobs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	if (knobs == MAP_FAILED)
		fail(argv[3]);
	for (int i = 4; i < argc; i += 2)
		exchanges[count++] = (struct exchange){unescape(argv[i]), unescape(argv[i + 1])};
	for (unsigned i = 0; i < open_connections; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

		connections[i].socket = reach(argv[1]);
		if (epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].socket, &event))
			fail("epoll_ctl");
	}
	for (unsigned i = 0; i < open_connections; i++)
		ask(&connections[i]);
	for (;;) {
		struct epoll_event ready[MOST];
		int found = epoll_wait(poll, ready, MOST, -1);

		for (int i = 0; i < found; i++) {
			struct connection *one = &connections[ready[i].data.u32];
			ssize_t got = recv(one->socket, bytes, sizeof(bytes), 0);

			if (got <= 0) {
				fprintf(stderr, "%s: the server closed a connection\n", argv[0]);
				return 1;
			}
			if (take(one, bytes, (size_t)got)) {
				exchanged();
				ask(one);
			}
		}
	}
}
